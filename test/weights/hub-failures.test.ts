import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { resolveModel } from "#precis/weights/hub.js";
import type { ResolveOptions } from "#precis/weights/hub.js";
import { blobName, COMMIT, ID, resetHub, startHub, stubHubEnvironment } from "./hub-server.js";
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

describe("content that is not what the hub announced", () => {
  it.each([
    ["other bytes of the same length", "model-00001-of-00002.safetensors", Buffer.alloc(300_000, 9)],
    ["more bytes", "model-00001-of-00002.safetensors", Buffer.alloc(300_001, 1)],
    ["other bytes of a file outside LFS", "config.json", Buffer.from('{"model_type":"lLama"}')],
  ])("(%s) is refused and thrown away", async (_name, file, content) => {
    hub.tampered.set(file, content);
    await expect(resolveModel(ID, options)).rejects.toMatchObject({
      code: "FILE_INVALID",
      message: expect.stringContaining(file),
    });
    const blobs = readdirSync(join(cacheDir, "models--tester--tiny-model", "blobs"));
    expect(blobs.filter((name) => name.startsWith(blobName(repo, file)))).toEqual([]);
    hub.tampered.clear();
    expect(readFileSync(join(await resolveModel(ID, options), file)).equals(repo.files[file])).toBe(true);
  });

  it("(fewer bytes, every time) ends in an error", async () => {
    hub.tampered.set("config.json", Buffer.from("{}"));
    await expect(resolveModel(ID, options)).rejects.toMatchObject({ code: "HUB_UNREACHABLE" });
  });

  it("(a damaged index) is FILE_INVALID", async () => {
    repo.files["model.safetensors.index.json"] = Buffer.from("{");
    await expect(resolveModel(ID, options)).rejects.toMatchObject({ code: "FILE_INVALID" });
  });
});

describe("without an answer from the hub", () => {
  let closed: string;

  beforeAll(async () => {
    const gone = await startHub();
    closed = gone.endpoint;
    await gone.close();
  });

  it("says how to do without it", async () => {
    await expect(resolveModel(ID, { ...options, endpoint: closed })).rejects.toMatchObject({
      code: "HUB_UNREACHABLE",
      message: expect.stringMatching(/ECONNREFUSED.*local model directory.*HF_HUB_CACHE/),
    });
  });

  it("refuses an address that is no URL", async () => {
    const refused = resolveModel(ID, { ...options, endpoint: "hub.example" });
    await expect(refused).rejects.toMatchObject({
      code: "OPTION_INVALID",
      message: expect.stringContaining("HF_ENDPOINT"),
    });
  });

  it("uses the snapshot that the branch pointed to", async () => {
    const dir = await resolveModel(ID, options);
    expect(await resolveModel(ID, { ...options, endpoint: closed })).toBe(dir);
  });

  it("offline, uses the cache and makes no request", async () => {
    const dir = await resolveModel(ID, options);
    hub.requests = [];
    expect(await resolveModel(ID, { ...options, offline: true })).toBe(dir);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await resolveModel(ID, options)).toBe(dir);
    vi.stubEnv("HF_HUB_OFFLINE", "");
    expect(hub.requests).toEqual([]);
  });

  it("offline, refuses a model that is not cached, or only in part", async () => {
    const wanted = { code: "HUB_UNREACHABLE", message: expect.stringContaining("HF_HUB_OFFLINE") };
    await expect(resolveModel(ID, { ...options, offline: true })).rejects.toMatchObject(wanted);
    const snapshot = join(cacheDir, "models--tester--tiny-model", "snapshots", COMMIT);
    mkdirSync(snapshot, { recursive: true });
    writeFileSync(join(snapshot, "config.json"), "{}");
    await expect(resolveModel(`${ID}@${COMMIT}`, { ...options, offline: true })).rejects.toMatchObject(wanted);
  });
});

describe("a refusal of the hub", () => {
  it("names HF_TOKEN when access is denied", async () => {
    repo.token = "right";
    await expect(resolveModel(ID, { ...options, token: "wrong" })).rejects.toMatchObject({
      code: "HUB_UNREACHABLE",
      message: expect.stringMatching(/401.*HF_TOKEN/),
    });
    await expect(resolveModel(ID, { ...options, token: "right" })).resolves.toContain(COMMIT);
  });

  it("says that a repository or revision does not exist", async () => {
    const wanted = { code: "FILE_NOT_FOUND", message: expect.stringMatching(/not found/) };
    await expect(resolveModel("tester/no-model", options)).rejects.toMatchObject(wanted);
    await expect(resolveModel(`${ID}@no-branch`, options)).rejects.toMatchObject(wanted);
  });

  it("says that a repository holds no model", async () => {
    repo.files = { "README.md": Buffer.from("x") };
    await expect(resolveModel(ID, options)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });

  it("is not asked for when two revisions are named", async () => {
    const both = resolveModel(`${ID}@main`, { ...options, revision: "dev" });
    await expect(both).rejects.toMatchObject({ code: "OPTION_INVALID" });
  });
});
