/** @file The snapshot file format: a checked header and checked sections. */
import { createHash } from "node:crypto";
import { PrecisError } from "../errors.js";
import { canUnpackTo, codeSection, decodeSection } from "./section-coding.js";

/** `PRECISM` and the version of the format. */
const MAGIC: Uint8Array = Uint8Array.from([0x50, 0x52, 0x45, 0x43, 0x49, 0x53, 0x4d, 1]);
const DIGEST_BYTES = 32;
/** No section of a memory comes near it; a coded one that claims more is not decoded. */
const MAX_SECTION_BYTES = 2 ** 31;
const PREAMBLE_BYTES = MAGIC.length + 4 + DIGEST_BYTES;

/** Parts of a snapshot: a JSON header and named binary sections. */
export interface Container {
  header: Record<string, unknown>;
  sections: ReadonlyMap<string, Uint8Array>;
}

interface SectionEntry {
  name: string;
  /** Of the bytes as they are stored. */
  length: number;
  /** Of the bytes as they are stored. */
  sha256: string;
  /** Only of sections that are entropy-coded (section-coding.ts). */
  coded?: { elementSize: number; length: number };
}

function corrupt(problem: string): PrecisError {
  return new PrecisError("SNAPSHOT_CORRUPT", `The snapshot is damaged: ${problem}.`, {
    nextStep: "Use another copy, or append the conversation's text again.",
  });
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/**
 * Layout: magic and version, header length, header digest, header (JSON with a table of sections), sections.
 * @param options.elementSize bytes per element of the sections, which are then entropy-coded if they get smaller
 */
export function encodeContainer(container: Container, { elementSize }: { elementSize?: number } = {}): Uint8Array {
  const stored: Uint8Array[] = [];
  const entries = [...container.sections].map(([name, bytes]): SectionEntry => {
    const coded = elementSize === undefined ? undefined : codeSection(bytes, elementSize);
    const kept = coded ?? bytes;
    stored.push(kept);
    const entry = { name, length: kept.byteLength, sha256: sha256(kept).toString("hex") };
    if (elementSize === undefined || coded === undefined) return entry;
    return { ...entry, coded: { elementSize, length: bytes.byteLength } };
  });
  const header = new TextEncoder().encode(JSON.stringify({ ...container.header, sections: entries }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.byteLength);
  const parts = [MAGIC, length, sha256(header), header, ...stored];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.byteLength;
  }
  return bytes;
}

function isSize(value: unknown, least: number): boolean {
  return Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= MAX_SECTION_BYTES;
}

function isSectionEntry(value: unknown): value is SectionEntry {
  const { name, length, sha256: digest, coded } = (value ?? {}) as Partial<Record<string, unknown>>;
  if (typeof name !== "string" || !isSize(length, 0) || typeof digest !== "string") return false;
  if (coded === undefined) return true;
  const { elementSize, length: size } = (coded ?? {}) as Partial<Record<string, unknown>>;
  if (!isSize(elementSize, 1) || Number(elementSize) > 8 || !isSize(size, 0)) return false;
  // A few bytes must not become gigabytes.
  return canUnpackTo(Number(size), Number(length));
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

function decoded(section: Uint8Array, coded: { elementSize: number; length: number }, name: string): Uint8Array {
  const bytes = decodeSection(section, coded.elementSize, coded.length);
  if (bytes === undefined) throw corrupt(`section "${name}" cannot be decoded`);
  return bytes;
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
    sections.set(entry.name, entry.coded === undefined ? section : decoded(section, entry.coded, entry.name));
    offset += entry.length;
  }
  if (offset !== bytes.byteLength) throw corrupt("bytes follow its end");
  return { header, sections };
}
