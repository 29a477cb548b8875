import { lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { resolveModel } from "#precis/weights/hub.js";
import type { DownloadProgress, ResolveOptions } from "#precis/weights/hub.js";
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
