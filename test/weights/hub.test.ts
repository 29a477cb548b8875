import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { modelsCommand } from "#precis/cli/commands/models.js";
import { pullCommand } from "#precis/cli/commands/pull.js";
import { formatBytes, formatTable } from "#precis/cli/table.js";
import { listCachedModels, resolveModel } from "#precis/weights/hub.js";
import type { DownloadProgress, ResolveOptions } from "#precis/weights/hub.js";
import { blobName, startHub } from "./hub-server.js";
import type { HubRepo, TestHub } from "./hub-server.js";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const ID = "tester/tiny-model";

let hub: TestHub;
let repo: HubRepo;
let cacheDir: string;
let options: ResolveOptions;

beforeAll(async () => {
  // None of the environment of whoever runs the tests may reach them.
  for (const name of ["HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"]) vi.stubEnv(name, "");
  hub = await startHub();
});

afterAll(async () => {
  vi.unstubAllEnvs();
  await hub.close();
});

beforeEach(() => {
  const weightMap = { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" };
  repo = {
    commit: COMMIT,
    files: {
      "config.json": Buffer.from('{"model_type":"llama"}'),
      "tokenizer.json": Buffer.from("{}"),
      "model.safetensors.index.json": Buffer.from(JSON.stringify({ weight_map: weightMap })),
      "model-00001-of-00002.safetensors": Buffer.alloc(300_000, 1),
      "model-00002-of-00002.safetensors": Buffer.alloc(200_000, 2),
      "consolidated.safetensors": Buffer.alloc(500_000, 3),
      "comp_embeddings.safetensors": Buffer.alloc(10, 4),
      "pytorch_model.bin": Buffer.alloc(10),
      "README.md": Buffer.from("# Tiny"),
      "onnx/model.safetensors": Buffer.alloc(10),
    },
    lfs: ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
  };
  hub.repos = new Map([[ID, repo]]);
  hub.tampered = new Map();
  Object.assign(hub, { requests: [], contents: [], cutAfter: [], failWith: [], withoutRanges: false });
  cacheDir = mkdtempSync(join(tmpdir(), "precis-hub-"));
  options = { cacheDir, endpoint: hub.endpoint };
});

afterEach(() => {
  vi.restoreAllMocks();
});

/** Files whose content was asked for. */
function fetched(): string[] {
  return hub.contents.map(({ file }) => file);
}

describe("a model given as a path", () => {
  it("is the directory itself, made absolute", async () => {
    expect(await resolveModel("models/precis-28m")).toBe(resolve("models/precis-28m"));
    expect(await resolveModel("~")).toBe(homedir());
  });

  it("may be the bare name of an embedded model", async () => {
    expect(await resolveModel("precis-28m")).toBe(resolve("models/precis-28m"));
  });

  it.each(["./nowhere", "/no/where", "~/nowhere-at-all", "C:\\models\\x", "a/b/c", "no-such-name"])(
    "%s that does not exist is FILE_NOT_FOUND without asking the hub",
    async (path) => {
      await expect(resolveModel(path, options)).rejects.toMatchObject({ code: "FILE_NOT_FOUND", value: path });
      expect(hub.requests).toEqual([]);
    },
  );

  it("is refused if it is a file", async () => {
    await expect(resolveModel("models/precis-28m/config.json")).rejects.toMatchObject({ code: "FILE_INVALID" });
  });

  it.each(["", "own er/name", "owner/na..me", "owner/name@../../x", "owner/name@"])("%j is no hub id", async (id) => {
    await expect(resolveModel(id, options)).rejects.toMatchObject({ code: "OPTION_INVALID" });
  });
});

describe("a first download", () => {
  it("fetches what is needed, of the weights only the shards of the index", async () => {
    const dir = await resolveModel(ID, options);
    expect(readdirSync(dir)).toEqual([
      "comp_embeddings.safetensors",
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
      "tokenizer.json",
    ]);
    for (const name of readdirSync(dir)) expect(readFileSync(join(dir, name)).equals(repo.files[name])).toBe(true);
  });

  it("lays the cache out as Python does", async () => {
    const dir = await resolveModel(ID, options);
    const root = join(cacheDir, "models--tester--tiny-model");
    expect(dir).toBe(join(root, "snapshots", COMMIT));
    expect(readFileSync(join(root, "refs", "main"), "utf8")).toBe(COMMIT);
    for (const name of ["config.json", "model-00001-of-00002.safetensors"]) {
      expect(lstatSync(join(dir, name)).isSymbolicLink()).toBe(true);
      expect(readlinkSync(join(dir, name))).toBe(join("..", "..", "blobs", blobName(repo, name)));
    }
  });

  it("prefers model.safetensors to other copies of the weights", async () => {
    repo.files = {
      "config.json": Buffer.from("{}"),
      "model.safetensors": Buffer.alloc(50),
      "model.fp16.safetensors": Buffer.alloc(25),
      "adapter_model.safetensors": Buffer.alloc(5),
      "adapter_config.json": Buffer.from("{}"),
    };
    const names = readdirSync(await resolveModel(ID, options));
    expect(names).toEqual(["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"]);
  });

  it("reports progress over all files, up to the end", async () => {
    const events: DownloadProgress[] = [];
    await resolveModel(ID, { ...options, onProgress: (event) => events.push(event) });
    const last = events.at(-1) as DownloadProgress;
    expect(last.bytesDone).toBe(last.bytesTotal);
    expect(last.fileIndex).toBe(last.fileCount - 1);
    expect(last.bytesTotal).toBeGreaterThan(500_000);
    const done = events.map(({ bytesDone }) => bytesDone);
    expect(done).toEqual([...done].sort((a, b) => a - b));
  });

  it("takes endpoint, token and cache from the environment", async () => {
    repo.token = "secret-of-a-mirror";
    vi.stubEnv("HF_ENDPOINT", `${hub.endpoint}/`);
    vi.stubEnv("HF_TOKEN", "secret-of-a-mirror");
    vi.stubEnv("HF_HUB_CACHE", cacheDir);
    try {
      expect(await resolveModel(ID)).toContain(cacheDir);
    } finally {
      for (const name of ["HF_ENDPOINT", "HF_TOKEN", "HF_HUB_CACHE"]) vi.stubEnv(name, "");
    }
  });
});

describe("a later call", () => {
  it("transfers no data", async () => {
    const dir = await resolveModel(ID, options);
    hub.contents = [];
    const onProgress = vi.fn();
    expect(await resolveModel(ID, { ...options, onProgress })).toBe(dir);
    expect(hub.contents).toEqual([]);
    expect(onProgress).not.toHaveBeenCalled();
  });

  it("for a commit makes no request at all", async () => {
    const dir = await resolveModel(ID, options);
    hub.requests = [];
    expect(await resolveModel(`${ID}@${COMMIT}`, options)).toBe(dir);
    expect(await resolveModel(ID, { ...options, revision: COMMIT })).toBe(dir);
    expect(hub.requests).toEqual([]);
  });

  it("after a new commit fetches only the changed file", async () => {
    const before = await resolveModel(ID, options);
    hub.contents = [];
    repo.commit = "f".repeat(40);
    repo.files["config.json"] = Buffer.from('{"model_type":"qwen2"}');
    const after = await resolveModel(ID, options);
    expect(fetched()).toEqual(["config.json"]);
    expect(readFileSync(join(after, "config.json"), "utf8")).toContain("qwen2");
    expect(readFileSync(join(before, "config.json"), "utf8")).toContain("llama");
  });
});

describe("an interrupted download", () => {
  const shard = "model-00001-of-00002.safetensors";

  it("is resumed with a Range request within the same call", async () => {
    repo.files = { "config.json": Buffer.from("{}"), "model.safetensors": Buffer.alloc(400_000, 7) };
    hub.cutAfter = [0, 100_000];
    const dir = await resolveModel(ID, options);
    expect(readFileSync(join(dir, "model.safetensors")).equals(repo.files["model.safetensors"])).toBe(true);
    expect(hub.contents.map(({ range }) => range)).toEqual([undefined, undefined, "bytes=100000-"]);
  });

  it("by the user is ABORTED, leaves no snapshot, and goes on at the next call", async () => {
    const abort = new AbortController();
    const onProgress = ({ file, bytesDone }: DownloadProgress): void => {
      if (file === shard && bytesDone > 1000) abort.abort();
    };
    // The first shard is the fourth file; cutting it makes sure that the abort comes before its end.
    hub.cutAfter = [0, 0, 0, 100_000];
    const stopped = resolveModel(ID, { ...options, signal: abort.signal, onProgress });
    await expect(stopped).rejects.toMatchObject({ code: "ABORTED" });
    expect(readdirSync(join(cacheDir, "models--tester--tiny-model"))).toEqual(["blobs"]);
    const partial = join(cacheDir, "models--tester--tiny-model", "blobs", `${blobName(repo, shard)}.incomplete`);
    const existing = lstatSync(partial).size;
    hub.contents = [];
    const dir = await resolveModel(ID, options);
    expect(hub.contents[0]).toEqual({ file: shard, range: `bytes=${existing}-` });
    expect(readFileSync(join(dir, shard)).equals(repo.files[shard])).toBe(true);
  });

  it("starts over where the server knows no ranges", async () => {
    hub.withoutRanges = true;
    hub.cutAfter = [0, 0, 0, 50_000];
    const dir = await resolveModel(ID, options);
    expect(readFileSync(join(dir, shard)).equals(repo.files[shard])).toBe(true);
  });

  it("is tried again when the hub is overloaded", async () => {
    hub.failWith = [503, 429];
    await resolveModel(ID, options);
    expect(fetched().filter((file) => file === "model.safetensors.index.json")).toHaveLength(3);
  });

  it("can be aborted before it begins", async () => {
    const signal = AbortSignal.abort();
    await expect(resolveModel(ID, { ...options, signal })).rejects.toMatchObject({ code: "ABORTED" });
    expect(hub.requests).toEqual([]);
  });

  it("is not confused by a second one at the same time", async () => {
    const dirs = await Promise.all([resolveModel(ID, options), resolveModel(ID, options)]);
    expect(dirs[0]).toBe(dirs[1]);
    expect(readFileSync(join(dirs[0], shard)).equals(repo.files[shard])).toBe(true);
  });
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
