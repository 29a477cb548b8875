/** @file Finds a model by directory, embedded name or hub id, downloading from the hub what the cache lacks. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { HUB_URL, listFiles, modelInfo } from "@huggingface/hub";
import type { ListFileEntry } from "@huggingface/hub";
import { PrecisError } from "../errors.js";
import { readJsonObject, throwIfAborted } from "./files.js";
import {
  expandHome,
  fileSize,
  findSnapshot,
  hubCacheDirectory,
  isCommit,
  isDirectory,
  linkBlob,
  repoDirectory,
  shardNames,
  writeRef,
} from "./hub-cache.js";
import { downloadBlob } from "./hub-download.js";
import { hubFailure, isNetworkFault, offlineFailure } from "./hub-errors.js";
import { parseModelName } from "./hub-id.js";

export { listCachedModels } from "./hub-cache.js";
export type { CachedModel } from "./hub-cache.js";

/** How far a download has come. */
export interface DownloadProgress {
  /** Name of the file being downloaded. */
  file: string;
  /** 0-based place of the file among those to download. */
  fileIndex: number;
  fileCount: number;
  /** Bytes of all files to download that are there by now, parts of an interrupted download included. */
  bytesDone: number;
  bytesTotal: number;
}

/** Options of {@link resolveModel}. */
export interface ResolveOptions {
  /** Branch, tag or commit (default `main`); the same as `owner/name@revision`. */
  revision?: string;
  /** Cache folder (default: HF_HUB_CACHE, HF_HOME, or the standard place). */
  cacheDir?: string;
  /** Access token (default: HF_TOKEN). */
  token?: string;
  /** Address of the hub (default: HF_ENDPOINT, or the public hub). */
  endpoint?: string;
  /** Use the cache only, without any request (default: HF_HUB_OFFLINE). */
  offline?: boolean;
  /** Ends the download; what has arrived is kept, and the next call goes on from there. */
  signal?: AbortSignal;
  onProgress?: (event: DownloadProgress) => void;
}

/** Everything that one resolution of a hub id needs to know. */
interface HubRequest {
  id: string;
  revision: string;
  repoDir: string;
  endpoint: string;
  fetch: typeof fetch;
  signal: AbortSignal | undefined;
  onProgress: ResolveOptions["onProgress"];
}

/** The folder of the models that come with this package. */
export const EMBEDDED_MODELS: string = fileURLToPath(new URL("../../models", import.meta.url));

/**
 * The local directory of a model: an existing directory as it is; the name of an embedded model (`precis-28m`); or a hub
 * id `owner/name[@revision]`, downloaded into the standard hub cache unless it is there. A branch or tag is looked up on
 * the hub at every call, and taken from the cache where the hub cannot be reached; a commit is not looked up again.
 *
 * Throws FILE_NOT_FOUND (no such directory, repository or revision), HUB_UNREACHABLE (no network, no access, or offline
 * and not cached), FILE_INVALID (content does not match its hash), ABORTED, OPTION_INVALID (malformed id or revision).
 * @example const dir = await resolveModel("owner/name@main", { onProgress: (event) => console.error(event.bytesDone) });
 */
export async function resolveModel(dirOrHubId: string, options: ResolveOptions = {}): Promise<string> {
  const local = await findLocal(dirOrHubId);
  if (local !== undefined) return local;
  const { id, revision } = parseModelName(dirOrHubId, options.revision);
  throwIfAborted(options.signal, `Resolving ${id}`);
  const request = hubRequest(id, revision, options);
  const cached = await findSnapshot(request.repoDir, revision);
  const offline = options.offline ?? /^(1|on|yes|true)$/i.test(process.env.HF_HUB_OFFLINE ?? "");
  if (cached !== undefined && (offline || isCommit(revision))) return cached;
  if (offline) throw offlineFailure(request);
  try {
    return await downloadSnapshot(request);
  } catch (error) {
    throwIfAborted(options.signal, `The download of ${id}`);
    if (cached !== undefined && isNetworkFault(error)) return cached;
    throw hubFailure(error, request);
  }
}

async function findLocal(name: string): Promise<string | undefined> {
  for (const path of [expandHome(name), /^[\w.-]+$/.test(name) ? join(EMBEDDED_MODELS, name) : undefined]) {
    if (path !== undefined && name !== "" && (await isDirectory(path))) return path;
  }
  if ((await fileSize(expandHome(name))) === undefined) return undefined;
  throw new PrecisError("FILE_INVALID", `${name} is a file, not a model directory.`, {
    value: name,
    nextStep: "Pass the directory that holds config.json.",
  });
}

function hubRequest(id: string, revision: string, options: ResolveOptions): HubRequest {
  const { signal, onProgress, token = process.env.HF_TOKEN } = options;
  const endpoint = (options.endpoint ?? process.env.HF_ENDPOINT) || HUB_URL;
  const { origin } = parseEndpoint(endpoint);
  // The library has no cancellation, and refuses tokens of mirrors that do not look like the public hub's.
  const fetchWithToken: typeof fetch = (input, init) => {
    const headers = new Headers(init?.headers);
    const toHub = new URL(input instanceof Request ? input.url : input).origin === origin;
    if (token !== undefined && token !== "" && toHub) headers.set("Authorization", `Bearer ${token}`);
    return fetch(input, { ...init, headers, signal: signal ?? null });
  };
  const repoDir = repoDirectory(hubCacheDirectory(options.cacheDir), id);
  return { id, revision, repoDir, endpoint: endpoint.replace(/\/+$/, ""), fetch: fetchWithToken, signal, onProgress };
}

function parseEndpoint(endpoint: string): URL {
  if (URL.canParse(endpoint)) return new URL(endpoint);
  throw new PrecisError("OPTION_INVALID", `The hub's address ${JSON.stringify(endpoint)} is not a URL.`, {
    value: endpoint,
    nextStep: "Set HF_ENDPOINT to one that begins with https://, or unset it.",
  });
}

/** Download what the cache lacks. The snapshot gets its links, and the ref its commit, when every blob is there. */
async function downloadSnapshot(request: HubRequest): Promise<string> {
  const { id, revision, repoDir, endpoint: hubUrl, fetch } = request;
  const { sha: commit } = await modelInfo({ name: id, revision, additionalFields: ["sha"], hubUrl, fetch });
  const listed: ListFileEntry[] = [];
  for await (const entry of listFiles({ repo: { type: "model", name: id }, revision: commit, hubUrl, fetch })) {
    if (entry.type === "file" && isWanted(entry.path)) listed.push(entry);
  }
  const entries = await withoutUnlistedWeights(listed, commit, request);
  if (entries.length === 0) {
    const nextStep = "Pick a repository with a config.json and safetensors weights.";
    throw new PrecisError("FILE_NOT_FOUND", `${id}@${revision} holds no model files.`, { value: id, nextStep });
  }
  await downloadEntries(entries, commit, request);
  const snapshot = join(repoDir, "snapshots", commit);
  for (const entry of entries) {
    const path = join(snapshot, entry.path);
    if ((await fileSize(path)) !== sizeOf(entry)) await linkBlob(blobPath(repoDir, entry), path);
  }
  await writeRef(repoDir, revision, commit);
  return snapshot;
}

const WANTED_FILES = new Set([
  "adapter_config.json",
  "chat_template.jinja",
  "config.json",
  "generation_config.json",
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer_config.json",
]);

/** Only files at the top of a repository have such names, so none can leave the snapshot folder. */
function isWanted(path: string): boolean {
  return WANTED_FILES.has(path) || /^[\w][\w.-]*\.safetensors(\.index\.json)?$/.test(path) || isCompEmbeddings(path);
}

function isCompEmbeddings(path: string): boolean {
  return /^comp_embeddings(\.\w+)?$/.test(path);
}

/** Leave out copies of the weights: those beside the shards of an index, or beside model.safetensors. */
async function withoutUnlistedWeights(
  entries: readonly ListFileEntry[],
  commit: string,
  request: HubRequest,
): Promise<ListFileEntry[]> {
  const index = entries.find(({ path }) => path === "model.safetensors.index.json");
  let weights: string[] = [];
  if (index !== undefined) {
    await downloadEntries([index], commit, { ...request, onProgress: undefined });
    weights = shardNames(await readJsonObject(blobPath(request.repoDir, index), "Ask its authors to repair it."));
  } else if (entries.some(({ path }) => path === "model.safetensors")) {
    weights = ["model.safetensors"];
  }
  if (weights.length === 0) return [...entries];
  const kept = (path: string): boolean =>
    !path.endsWith(".safetensors") || weights.includes(path) || path.startsWith("adapter") || isCompEmbeddings(path);
  return entries.filter(({ path }) => kept(path));
}

async function downloadEntries(entries: readonly ListFileEntry[], commit: string, request: HubRequest): Promise<void> {
  const { id, repoDir, endpoint, fetch, signal, onProgress } = request;
  const sizes = await Promise.all(entries.map((entry) => fileSize(blobPath(repoDir, entry))));
  const missing = entries.filter((entry, i) => sizes[i] !== sizeOf(entry));
  const bytesTotal = missing.reduce((sum, entry) => sum + sizeOf(entry), 0);
  let bytesBefore = 0;
  for (const [fileIndex, entry] of missing.entries()) {
    const report = (bytes: number): void =>
      onProgress?.({
        file: entry.path,
        fileIndex,
        fileCount: missing.length,
        bytesDone: bytesBefore + bytes,
        bytesTotal,
      });
    const url = `${endpoint}/${id}/resolve/${commit}/${entry.path}`;
    const path = blobPath(repoDir, entry);
    await downloadBlob({ url, path, size: sizeOf(entry), digest: digestOf(entry), fetch, signal, onBytes: report });
    bytesBefore += sizeOf(entry);
  }
}

function sizeOf(entry: ListFileEntry): number {
  return entry.lfs?.size ?? entry.size;
}

/** What the blob is named after and checked by: the sha256 of an LFS file, else the git id. */
function digestOf({ lfs, oid, xetHash, path }: ListFileEntry): { kind: "sha256" | "git" | "none"; hex: string } {
  const hex = lfs?.oid ?? oid ?? xetHash ?? "";
  if (!/^[0-9a-f]{40,64}$/.test(hex)) {
    throw new PrecisError("HUB_UNREACHABLE", `The hub gave no usable hash for ${path}.`, {
      value: hex,
      nextStep: "Check that HF_ENDPOINT is a hub.",
    });
  }
  return { kind: lfs === undefined ? (oid === undefined ? "none" : "git") : "sha256", hex };
}

function blobPath(repoDir: string, entry: ListFileEntry): string {
  return join(repoDir, "blobs", digestOf(entry).hex);
}
