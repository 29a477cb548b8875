/** @file Downloads one blob: resumed where it was left off, tried again on network faults, checked by its hash. */

import { createHash } from "node:crypto";
import type { Hash } from "node:crypto";
import { constants } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HubApiError } from "@huggingface/hub";
import { PrecisError } from "../errors.js";
import { fileSize } from "./hub-cache.js";
import { ConnectionLost, isNetworkFault } from "./hub-errors.js";

/** A blob to download. */
export interface BlobRequest {
  url: string;
  /** Where it goes; until complete it is `<path>.incomplete`, as in Python's cache. */
  path: string;
  /** Bytes that the hub says it has. */
  size: number;
  /** What the hub says its content hashes to: `sha256` of the bytes (LFS) or the id of a `git` blob. */
  digest: { kind: "sha256" | "git" | "none"; hex: string };
  /** The fetch to use, with credentials and cancellation in it. */
  fetch: typeof fetch;
  signal?: AbortSignal | undefined;
  /** Called with the number of bytes there are by now, first with those of an earlier attempt. */
  onBytes?: ((bytesDone: number) => void) | undefined;
}

const ATTEMPTS = 4;
const FIRST_DELAY_MS = 200;
const READ_BYTES = 1 << 20;

/**
 * Make `request.path` exist with the content that the hub describes.
 * Throws FILE_INVALID for content of another size or hash (which is thrown away), HubApiError for a refusal of the hub.
 */
export async function downloadBlob(request: BlobRequest): Promise<void> {
  if ((await fileSize(request.path)) === request.size) return;
  await mkdir(dirname(request.path), { recursive: true });
  for (let attempt = 1; ; attempt++) {
    try {
      await transfer(request);
      return;
    } catch (error) {
      if (attempt === ATTEMPTS || request.signal?.aborted === true || !isNetworkFault(error)) throw error;
      await sleep(FIRST_DELAY_MS * 2 ** (attempt - 1), undefined, { signal: request.signal });
    }
  }
}

async function transfer(request: BlobRequest): Promise<void> {
  const partial = `${request.path}.incomplete`;
  // Opened without truncating and written by position: two processes that download the same blob write the same bytes
  // to the same places, so they need no lock.
  const file = await open(partial, constants.O_RDWR | constants.O_CREAT);
  let valid: boolean;
  try {
    valid = await complete(file, request);
  } finally {
    await file.close();
  }
  if (!valid) {
    await rm(partial, { force: true });
    throw new PrecisError("FILE_INVALID", `The content of ${request.url} is not what the hub announced for it.`, {
      value: request.url,
      nextStep: "The download was thrown away: try again, and check any proxy in between if this repeats.",
    });
  }
  await rename(partial, request.path).catch(async (error: unknown) => {
    if ((await fileSize(request.path)) !== request.size) throw error;
  });
}

/** Fetch what `file` lacks; whether it then has the announced size and hash. */
async function complete(file: FileHandle, request: BlobRequest): Promise<boolean> {
  const { size, digest } = request;
  let hash = startHash(request);
  let done = await hashExisting(file, size, hash);
  request.onBytes?.(done);
  if (done < size) {
    const response = await requestFrom(request, done);
    if (done > 0 && response.status !== 206) {
      // This server sends the whole file again.
      hash = startHash(request);
      done = 0;
    }
    for await (const chunk of response.body ?? []) {
      if (done + chunk.byteLength > size) return false;
      await file.write(chunk, 0, chunk.byteLength, done);
      hash.update(chunk);
      done += chunk.byteLength;
      request.onBytes?.(done);
    }
    if (done < size) throw new ConnectionLost(`${request.url} ended after ${done} of ${size} bytes`);
  }
  await file.truncate(size);
  return digest.kind === "none" || hash.digest("hex") === digest.hex;
}

async function requestFrom(request: BlobRequest, start: number): Promise<Response> {
  // A compressed answer would have other byte positions.
  const headers: Record<string, string> = { "Accept-Encoding": "identity" };
  if (start > 0) headers.Range = `bytes=${start}-`;
  const response = await request.fetch(request.url, { headers });
  if (response.ok) return response;
  await response.body?.cancel();
  throw new HubApiError(request.url, response.status, undefined, `The hub answered ${response.status}`);
}

function startHash({ digest, size }: BlobRequest): Hash {
  return digest.kind === "git" ? createHash("sha1").update(`blob ${size}\0`) : createHash("sha256");
}

/** Feed what an earlier attempt wrote to `hash`; how many bytes that is, 0 for a file that is too long to be a part. */
async function hashExisting(file: FileHandle, size: number, hash: Hash): Promise<number> {
  const { size: existing } = await file.stat();
  if (existing > size) return 0;
  const buffer = Buffer.allocUnsafe(Math.min(existing, READ_BYTES));
  let done = 0;
  while (done < existing) {
    const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, done);
    if (bytesRead === 0) break;
    hash.update(buffer.subarray(0, bytesRead));
    done += bytesRead;
  }
  return done;
}
