/** @file The snapshot file format: a checked header and checked sections. */
import { createHash } from "node:crypto";
import { PrecisError } from "../errors.js";

/** `PRECISM` and the version of the format. */
const MAGIC: Uint8Array = Uint8Array.from([0x50, 0x52, 0x45, 0x43, 0x49, 0x53, 0x4d, 1]);
const DIGEST_BYTES = 32;
const PREAMBLE_BYTES = MAGIC.length + 4 + DIGEST_BYTES;

/** Parts of a snapshot: a JSON header and named binary sections. */
export interface Container {
  header: Record<string, unknown>;
  sections: ReadonlyMap<string, Uint8Array>;
}

interface SectionEntry {
  name: string;
  length: number;
  sha256: string;
}

function corrupt(problem: string): PrecisError {
  return new PrecisError("SNAPSHOT_CORRUPT", `The snapshot is damaged: ${problem}.`, {
    nextStep: "Use another copy, or append the conversation's text again.",
  });
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/** Layout: magic and version, header length, header digest, header (JSON with a table of sections), sections. */
export function encodeContainer(container: Container): Uint8Array {
  const entries: SectionEntry[] = [...container.sections].map(([name, bytes]) => ({
    name,
    length: bytes.byteLength,
    sha256: sha256(bytes).toString("hex"),
  }));
  const header = new TextEncoder().encode(JSON.stringify({ ...container.header, sections: entries }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.byteLength);
  const parts = [MAGIC, length, sha256(header), header, ...container.sections.values()];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.byteLength;
  }
  return bytes;
}

function isSectionEntry(value: unknown): value is SectionEntry {
  const { name, length, sha256: digest } = (value ?? {}) as Partial<Record<string, unknown>>;
  return typeof name === "string" && Number.isSafeInteger(length) && Number(length) >= 0 && typeof digest === "string";
}

/** The header's JSON and its table of sections; a valid digest does not make them sensible. */
function readTable(bytes: Buffer): { header: Record<string, unknown>; entries: SectionEntry[] } {
  let header: unknown;
  try {
    header = JSON.parse(bytes.toString("utf8"));
  } catch {
    throw corrupt("its header is not JSON");
  }
  const { sections } = (header ?? {}) as Partial<Record<string, unknown>>;
  if (!Array.isArray(sections) || !sections.every(isSectionEntry))
    throw corrupt("its table of sections makes no sense");
  return { header: header as Record<string, unknown>, entries: sections };
}

/**
 * Reads a container and checks every byte of it against its digests.
 * @throws SNAPSHOT_CORRUPT for anything that {@link encodeContainer} did not write
 */
export function decodeContainer(bytes: Uint8Array): Container {
  if (
    !(bytes instanceof Uint8Array) ||
    bytes.byteLength < PREAMBLE_BYTES ||
    MAGIC.subarray(0, -1).some((byte, i) => bytes[i] !== byte)
  ) {
    throw corrupt("it does not begin like one");
  }
  if (bytes[MAGIC.length - 1] !== MAGIC[MAGIC.length - 1])
    throw corrupt(`its format version ${bytes[MAGIC.length - 1]} is unknown`);
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerLength = view.readUInt32LE(MAGIC.length);
  const headerEnd = PREAMBLE_BYTES + headerLength;
  if (headerEnd > bytes.byteLength) throw corrupt("its header is cut off");
  const headerBytes = view.subarray(PREAMBLE_BYTES, headerEnd);
  if (!sha256(headerBytes).equals(view.subarray(MAGIC.length + 4, PREAMBLE_BYTES)))
    throw corrupt("its header was changed");
  const { header, entries } = readTable(headerBytes);
  const sections = new Map<string, Uint8Array>();
  let offset = headerEnd;
  for (const entry of entries) {
    const section = bytes.subarray(offset, offset + entry.length);
    if (section.byteLength !== entry.length) throw corrupt(`section "${entry.name}" is cut off`);
    if (sha256(section).toString("hex") !== entry.sha256) throw corrupt(`section "${entry.name}" was changed`);
    sections.set(entry.name, section);
    offset += entry.length;
  }
  if (offset !== bytes.byteLength) throw corrupt("bytes follow its end");
  return { header, sections };
}
