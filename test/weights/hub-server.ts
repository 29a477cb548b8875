/** @file A small hub on localhost: the routes of a model hub that a download uses, with faults on request. */

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { vi } from "vitest";

/** A model on the test hub. */
export interface HubRepo {
  /** Commit that `main` points to. */
  commit: string;
  files: Record<string, Buffer>;
  /** Names of files that are stored as LFS, and so named by sha256. */
  lfs?: readonly string[];
  /** If set, requests need this token. */
  token?: string;
}

/** A request for the content of a file, as the server saw it. */
export interface ContentRequest {
  file: string;
  range: string | undefined;
}

/** The running hub. */
export interface TestHub {
  endpoint: string;
  repos: Map<string, HubRepo>;
  /** Every request's method and path. */
  requests: string[];
  /** Requests for contents only. */
  contents: ContentRequest[];
  /** Answers to come are cut after so many bytes of content, one entry per request; 0 cuts nothing. */
  cutAfter: number[];
  /** Statuses to answer coming content requests with, one entry per request. */
  failWith: number[];
  /** Send this instead of a file's content. */
  tampered: Map<string, Buffer>;
  /** Ignore Range headers. */
  withoutRanges: boolean;
  close(): Promise<void>;
}

function sha256(content: Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}

function gitId(content: Buffer): string {
  return createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
}

/** What the cache names the blob of this file. */
export function blobName(repo: HubRepo, file: string): string {
  return repo.lfs?.includes(file) ? sha256(repo.files[file]) : gitId(repo.files[file]);
}

/** Id and commit of {@link tinyRepo}. */
export const ID = "tester/tiny-model";
export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** A model in two shards, among files that nobody needs. */
export function tinyRepo(): HubRepo {
  const weightMap = { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" };
  return {
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
}

/** Forget what was asked, and every fault; serve one new {@link tinyRepo}, which is returned. */
export function resetHub(hub: TestHub): HubRepo {
  const repo = tinyRepo();
  hub.repos = new Map([[ID, repo]]);
  hub.tampered = new Map();
  Object.assign(hub, { requests: [], contents: [], cutAfter: [], failWith: [], withoutRanges: false });
  return repo;
}

/** Keep the environment of whoever runs the tests from them; `vi.unstubAllEnvs` restores it. */
export function stubHubEnvironment(): void {
  for (const name of ["HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"]) vi.stubEnv(name, "");
}

/** Start a hub on a free port of localhost. */
export async function startHub(): Promise<TestHub> {
  const server = createServer((request, response) => void route(hub, request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const hub: TestHub = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    repos: new Map(),
    requests: [],
    contents: [],
    cutAfter: [],
    failWith: [],
    tampered: new Map(),
    withoutRanges: false,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
  return hub;
}

function route(hub: TestHub, request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url ?? "/", hub.endpoint);
  hub.requests.push(`${request.method} ${url.pathname}`);
  const api = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/(.+)$/.exec(decodeURIComponent(url.pathname));
  const content = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname);
  const [, id, ...rest] = api ?? content ?? [];
  const repo = hub.repos.get(id ?? "");
  if (repo === undefined) return sendJson(response, 404, { error: "Repository not found" });
  if (repo.token !== undefined && request.headers.authorization !== `Bearer ${repo.token}`) {
    return sendJson(response, 401, { error: "Invalid credentials in Authorization header" });
  }
  const revision = api === null ? rest[0] : rest[1];
  if (revision !== "main" && revision !== repo.commit) return sendJson(response, 404, { error: "Invalid rev id" });
  if (api === null) return sendContent(hub, repo, rest[1], request, response);
  if (rest[0] === "tree") return sendJson(response, 200, tree(repo));
  return sendJson(response, 200, { _id: "1", id, sha: repo.commit, lastModified: "2024-01-01T00:00:00.000Z" });
}

function tree(repo: HubRepo): object[] {
  const entries = Object.entries(repo.files).map(([path, content]) => ({
    type: "file",
    path,
    size: content.length,
    oid: gitId(content),
    ...(repo.lfs?.includes(path) && { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } }),
  }));
  return [...entries, { type: "directory", path: "onnx", size: 0, oid: "0".repeat(40) }];
}

function sendContent(
  hub: TestHub,
  repo: HubRepo,
  file: string,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  hub.contents.push({ file, range: request.headers.range });
  const failure = hub.failWith.shift() ?? 0;
  if (failure !== 0) return sendJson(response, failure, { error: "Try later" });
  const content = hub.tampered.get(file) ?? repo.files[file];
  if (content === undefined) return sendJson(response, 404, { error: "Entry not found" });
  const start = hub.withoutRanges ? 0 : Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const body = content.subarray(start);
  const range = start > 0 && { "Content-Range": `bytes ${start}-${content.length - 1}/${content.length}` };
  response.writeHead(start > 0 ? 206 : 200, {
    "Content-Length": body.length,
    ETag: `"${blobName(repo, file)}"`,
    "X-Repo-Commit": repo.commit,
    ...range,
  });
  const cut = hub.cutAfter.shift() ?? 0;
  if (cut === 0) return void response.end(body);
  // The bytes must have left before the connection goes, or the client would see none of them.
  response.write(body.subarray(0, cut), () => setTimeout(() => response.destroy(), 20));
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value));
}
