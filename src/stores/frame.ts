/** @file A stored session as bytes: version, metadata and snapshot under one digest that is bound to its key. */
import { createHash, randomUUID } from "node:crypto";
import { PrecisError } from "../errors.js";
import type { JsonValue, SessionKey, SessionValue, StoredSession } from "./store.js";

/** `PRECISV` and the version of the format. */
const MAGIC: Uint8Array = Uint8Array.from([0x50, 0x52, 0x45, 0x43, 0x49, 0x53, 0x56, 1]);
const DIGEST_BYTES = 32;
const PREAMBLE_BYTES = MAGIC.length + DIGEST_BYTES + 4;

/** The length of every version. */
export const VERSION_CHARACTERS = 36;

/** A version that no other write has. */
export function freshVersion(): string {
  return randomUUID();
}

/** The STORE_CORRUPT error of a session. */
export function corruptSession(key: SessionKey, problem: string, cause?: unknown): PrecisError {
  return new PrecisError("STORE_CORRUPT", `What is stored of session "${key.id}" is damaged: ${problem}.`, {
    value: key.id,
    nextStep: "Restore the store from a backup, or delete the session and append its text again.",
    cause,
  });
}

/** Digest over the key and everything behind the digest, so that a value moved to another key is noticed too. */
function digestOf(key: SessionKey, rest: Uint8Array): Buffer {
  return createHash("sha256").update(`${key.namespace}\0${key.id}\0`).update(rest).digest();
}

/** Layout: magic and version, SHA-256, header length, header (JSON: version and metadata), snapshot. */
export function encodeFrame(key: SessionKey, { version, metadata, bytes }: StoredSession): Uint8Array<ArrayBuffer> {
  const header = new TextEncoder().encode(JSON.stringify({ version, metadata }));
  const frame = new Uint8Array(PREAMBLE_BYTES + header.byteLength + bytes.byteLength);
  frame.set(MAGIC);
  new DataView(frame.buffer).setUint32(MAGIC.length + DIGEST_BYTES, header.byteLength, true);
  frame.set(header, PREAMBLE_BYTES);
  frame.set(bytes, PREAMBLE_BYTES + header.byteLength);
  frame.set(digestOf(key, frame.subarray(MAGIC.length + DIGEST_BYTES)), MAGIC.length);
  return frame;
}

/**
 * Reads a frame and checks every byte of it.
 * @throws STORE_CORRUPT for anything that {@link encodeFrame} did not write under this key
 */
export function decodeFrame(key: SessionKey, frame: Uint8Array): StoredSession {
  if (frame.byteLength < PREAMBLE_BYTES) throw corruptSession(key, "it is cut off");
  if (MAGIC.some((byte, i) => frame[i] !== byte)) throw corruptSession(key, "it does not begin like a session");
  const rest = frame.subarray(MAGIC.length + DIGEST_BYTES);
  if (!digestOf(key, rest).equals(frame.subarray(MAGIC.length, MAGIC.length + DIGEST_BYTES))) {
    throw corruptSession(key, "its checksum does not fit");
  }
  const headerEnd = PREAMBLE_BYTES + new DataView(rest.buffer, rest.byteOffset, 4).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(frame.subarray(PREAMBLE_BYTES, headerEnd))) as {
    version: string;
    metadata: Record<string, JsonValue>;
  };
  return { ...header, bytes: new Uint8Array(frame.subarray(headerEnd)) };
}

/** A value as the frame of a new version. */
export function frameValue(key: SessionKey, value: SessionValue): { version: string; frame: Uint8Array<ArrayBuffer> } {
  const version = freshVersion();
  return { version, frame: encodeFrame(key, { version, bytes: value.bytes, metadata: value.metadata }) };
}
