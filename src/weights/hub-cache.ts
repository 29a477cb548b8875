/** @file The hub cache on disk, laid out as Python's huggingface_hub lays it out: blobs, refs, snapshots of links. */

import type { Stats } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rm, stat, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { getHFHubCachePath } from "@huggingface/hub";
import { isRecord, isSystemError, writeFileAtomic } from "./files.js";

/** A model snapshot in the cache. */
export interface CachedModel {
  /** `owner/name`. */
  id: string;
  /** Commit of the snapshot. */
  revision: string;
  /** Branches and tags that point to this commit, such as `main`. */
  refs: string[];
  /** The snapshot directory, which can be loaded as a model directory. */
  path: string;
  /** Size of its files together. */
  bytes: number;
  /** `model_type` of its config.json. */
  modelType: string | undefined;
}

const COMMIT = /^[0-9a-f]{40}$/;

/** Whether `revision` is a full commit hash, whose files never change. */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/** `path` with a leading `~` replaced by the home folder, made absolute. */
export function expandHome(path: string): string {
  return resolve(path.replace(/^~(?=$|[/\\])/, homedir()));
}

/** The cache folder: `cacheDir`, else what HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME say, else the standard place. */
export function hubCacheDirectory(cacheDir?: string): string {
  return expandHome(cacheDir ?? getHFHubCachePath());
}

/** The folder of one model in the cache. */
export function repoDirectory(cacheDir: string, id: string): string {
  return join(cacheDir, `models--${id.replaceAll("/", "--")}`);
}

/** Whether `path`, links followed, is a directory. */
export async function isDirectory(path: string): Promise<boolean> {
  return (await statOptional(path))?.isDirectory() === true;
}

/** Size of the file at `path`, links followed, or undefined where there is none. */
export async function fileSize(path: string): Promise<number | undefined> {
  const found = await statOptional(path);
  return found?.isFile() === true ? found.size : undefined;
}

async function statOptional(path: string): Promise<Stats | undefined> {
  return stat(path).catch((error: unknown) => {
    if (isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP")) return undefined;
    throw error;
  });
}

/** The complete snapshot that the cache holds of a revision (branch, tag or commit), or undefined. */
export async function findSnapshot(repoDir: string, revision: string): Promise<string | undefined> {
  const commit = isCommit(revision) ? revision : await readRef(repoDir, revision);
  if (commit === undefined) return undefined;
  const snapshot = join(repoDir, "snapshots", commit);
  return (await isComplete(snapshot)) ? snapshot : undefined;
}

/** Remember that a branch or tag points to `commit`. */
export async function writeRef(repoDir: string, revision: string, commit: string): Promise<void> {
  if (!isCommit(revision)) await writeFileAtomic(join(repoDir, "refs", revision), commit);
}

/** Make `snapshotFile` a relative link to `blob`, or a copy where the file system has no links. */
export async function linkBlob(blob: string, snapshotFile: string): Promise<void> {
  await mkdir(dirname(snapshotFile), { recursive: true });
  await rm(snapshotFile, { force: true });
  try {
    await symlink(relative(dirname(snapshotFile), blob), snapshotFile);
  } catch (error) {
    // Another process may have linked it in between; Windows refuses links without developer mode.
    if (!isSystemError(error, "EEXIST")) await copyFile(blob, snapshotFile);
  }
}

/** File names of the shards that a safetensors index lists. */
export function shardNames(index: unknown): string[] {
  const map = isRecord(index) && isRecord(index.weight_map) ? index.weight_map : {};
  return [...new Set(Object.values(map).filter((name) => typeof name === "string"))];
}

/**
 * The models in the hub cache, sorted by id; an empty list where there is no cache.
 * @param cacheDir default: the cache that the environment names
 */
export async function listCachedModels(cacheDir?: string): Promise<CachedModel[]> {
  const root = hubCacheDirectory(cacheDir);
  const models: CachedModel[] = [];
  for (const folder of await namesIn(root)) {
    if (!folder.startsWith("models--")) continue;
    const repoDir = join(root, folder);
    const refs = await readRefs(join(repoDir, "refs"));
    for (const revision of await namesIn(join(repoDir, "snapshots"))) {
      const described = await describeModel(join(repoDir, "snapshots", revision));
      if (described.bytes === 0) continue;
      const pointing = [...refs].filter(([, commit]) => commit === revision).map(([name]) => name);
      const id = folder.split("--").slice(1).join("/");
      models.push({ id, revision, refs: pointing, path: join(repoDir, "snapshots", revision), ...described });
    }
  }
  return models.sort((a, b) => (a.id < b.id ? -1 : Number(a.id > b.id)));
}

/** Size and `model_type` of a model directory. */
export async function describeModel(dir: string): Promise<{ bytes: number; modelType: string | undefined }> {
  let bytes = 0;
  for (const name of await namesIn(dir)) bytes += (await fileSize(join(dir, name))) ?? 0;
  const config = await readJson(join(dir, "config.json"));
  const modelType = isRecord(config) && typeof config.model_type === "string" ? config.model_type : undefined;
  return { bytes, modelType };
}

/** Names in a folder, sorted; an empty list where there is no such folder. */
export async function namesIn(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch((error: unknown) => {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  });
  return names.sort();
}

async function readRef(repoDir: string, revision: string): Promise<string | undefined> {
  const text = await readFile(join(repoDir, "refs", revision), "utf8").catch(() => "");
  return isCommit(text.trim()) ? text.trim() : undefined;
}

/** Every ref below `refsDir`, nested ones (`refs/pr/1`) included, with its commit. */
async function readRefs(refsDir: string, prefix = ""): Promise<Map<string, string>> {
  const refs = new Map<string, string>();
  for (const name of await namesIn(join(refsDir, prefix))) {
    const ref = prefix === "" ? name : `${prefix}/${name}`;
    const inner = (await isDirectory(join(refsDir, ref))) ? await readRefs(refsDir, ref) : undefined;
    if (inner === undefined) refs.set(ref, (await readFile(join(refsDir, ref), "utf8")).trim());
    else for (const [nested, commit] of inner) refs.set(nested, commit);
  }
  return refs;
}

/** Whether a snapshot has its weights: all the shards of its index, or some safetensors file. */
async function isComplete(snapshot: string): Promise<boolean> {
  const names = await namesIn(snapshot);
  const index = names.find((name) => name.endsWith(".safetensors.index.json"));
  const shards = index === undefined ? [] : shardNames(await readJson(join(snapshot, index)));
  const wanted = shards.length > 0 ? shards : names.filter((name) => name.endsWith(".safetensors"));
  const sizes = await Promise.all(wanted.map((name) => fileSize(join(snapshot, name))));
  return wanted.length > 0 && sizes.every((size) => size !== undefined);
}

async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch {
    return undefined;
  }
}
