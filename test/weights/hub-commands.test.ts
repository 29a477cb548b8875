import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { modelsCommand } from "#precis/cli/commands/models.js";
import { pullCommand } from "#precis/cli/commands/pull.js";
import { formatTable } from "#precis/cli/table.js";
import { formatBytes } from "#precis/format/sizes.js";
import { listCachedModels, resolveModel } from "#precis/weights/hub.js";
import type { ResolveOptions } from "#precis/weights/hub.js";
import { COMMIT, ID, resetHub, startHub, stubHubEnvironment } from "./hub-server.js";
import type { HubRepo, TestHub } from "./hub-server.js";

let hub: TestHub;
let repo: HubRepo;
let cacheDir: string;
let options: ResolveOptions;

beforeAll(async () => {
  stubHubEnvironment();
  hub = await startHub();
});

afterAll(async () => {
  vi.unstubAllEnvs();
  await hub.close();
});

beforeEach(() => {
  repo = resetHub(hub);
  cacheDir = mkdtempSync(join(tmpdir(), "precis-hub-"));
  options = { cacheDir, endpoint: hub.endpoint };
});

afterEach(() => {
  rmSync(cacheDir, { recursive: true, force: true });
});

describe("the list of cached models", () => {
  it("names id, commit, refs, size and family", async () => {
    const path = await resolveModel(ID, options);
    const bytes = readdirSync(path).reduce((sum, name) => sum + repo.files[name].length, 0);
    expect(await listCachedModels(cacheDir)).toEqual([
      { id: ID, revision: COMMIT, refs: ["main"], path, bytes, modelType: "llama" },
    ]);
  });

  it("is empty without a cache", async () => {
    expect(await listCachedModels(join(cacheDir, "missing"))).toEqual([]);
  });
});

describe("the commands", () => {
  async function output(run: () => Promise<unknown>): Promise<string> {
    let text = "";
    vi.spyOn(process.stdout, "write").mockImplementation((chunk) => {
      text += String(chunk);
      return true;
    });
    await run();
    vi.restoreAllMocks();
    return text;
  }

  it("precis pull prints the directory, or JSON", async () => {
    vi.stubEnv("HF_ENDPOINT", hub.endpoint);
    const args = [ID, "--cache-dir", cacheDir];
    const path = join(cacheDir, "models--tester--tiny-model", "snapshots", COMMIT);
    expect(await output(() => pullCommand().parseAsync(args, { from: "user" }))).toBe(`${path}\n`);
    const json = await output(() => pullCommand().parseAsync([...args, "--json"], { from: "user" }));
    expect(JSON.parse(json)).toEqual({ model: ID, path });
    vi.stubEnv("HF_ENDPOINT", "");
  });

  it("precis pull passes errors on", async () => {
    await expect(pullCommand().parseAsync(["./nowhere"], { from: "user" })).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
    });
  });

  it("precis models lists embedded and cached models", async () => {
    await resolveModel(ID, options);
    const args = ["--cache-dir", cacheDir];
    const table = await output(() => modelsCommand().parseAsync(args, { from: "user" }));
    expect(table).toMatch(/^MODEL +FAMILY +SIZE +SOURCE +PATH\n/);
    expect(table).toMatch(/precis-28m +llama +56\.2 MB +embedded/);
    expect(table).toMatch(/tester\/tiny-model +llama +500 kB +cache/);
    const json = await output(() => modelsCommand().parseAsync([...args, "--json"], { from: "user" }));
    expect(JSON.parse(json)).toContainEqual(expect.objectContaining({ id: ID, source: "cache", revision: COMMIT }));
  });

  it("teach by an example in their help", () => {
    for (const command of [pullCommand(), modelsCommand()]) {
      let help = "";
      command.configureOutput({ writeOut: (text) => (help += text) }).outputHelp();
      expect(help).toContain(`$ precis ${command.name()}`);
    }
  });

  it("align numbers to the right and leave no space at line ends", () => {
    const rows = [
      { name: "a", count: 5 },
      { name: "long name", count: 120 },
    ];
    expect(formatTable(rows, ["count", { key: "name", heading: "model" }])).toBe(
      "COUNT  MODEL\n    5  a\n  120  long name",
    );
    expect(formatTable([], ["name"])).toBe("");
    expect([0, 999, 1000, 999_600, 54_876_000, 1.5e12].map(formatBytes)).toEqual([
      "0 B",
      "999 B",
      "1.00 kB",
      "1.00 MB",
      "54.9 MB",
      "1.50 TB",
    ]);
  });
});
