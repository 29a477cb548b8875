/** @file The snapshot file format: a checked header and checked sections. */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { PrecisError } from "../errors.js";
import { canUnpackTo, codeSection, decodeSection } from "./section-coding.js";

/** `PRECISM`; the version of the format follows. */
const MAGIC: Uint8Array = Uint8Array.from([0x50, 0x52, 0x45, 0x43, 0x49, 0x53, 0x4d]);
/** Version 1 has a SHA-256 of each section where version 2 has a CRC-32, which takes a sixth of the time. */
const VERSIONS = [1, 2];
const VERSION = 2;
const DIGEST_BYTES = 32;
/** Sections begin at a multiple of it, so that rows can be written and read in place. */
const ALIGNMENT = 8;
/** No section of a memory comes near it; a coded one that claims more is not decoded. */
const MAX_SECTION_BYTES = 2 ** 31;
const PREAMBLE_BYTES = MAGIC.length + 1 + 4 + DIGEST_BYTES;

/** Parts of a snapshot: a JSON header and named binary sections. */
export interface Container {
  header: Record<string, unknown>;
  sections: ReadonlyMap<string, Uint8Array>;
}

/** A section that is not there yet: it is written straight into the container. */
export interface SectionWriter {
  readonly byteLength: number;
  /** Fills `target`, which has so many bytes. */
  write(target: Uint8Array): void;
}

/** Parts of a snapshot that is to be written. */
export interface NewContainer {
  header: Record<string, unknown>;
  sections: ReadonlyMap<string, Uint8Array | SectionWriter>;
}

interface SectionEntry {
  name: string;
  /** Of the bytes as they are stored. */
  length: number;
  /** Eight hexadecimal digits, of the bytes as they are stored. */
  crc32?: string;
  /** In place of it in version 1. */
  sha256?: string;
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

function checksum(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, "0");
}

function writeSection(section: Uint8Array | SectionWriter, target: Uint8Array): void {
  if (section instanceof Uint8Array) target.set(section);
  else section.write(target);
}

/** A section as it is stored, and its entry but for the checksum. */
function entryOf(
  name: string,
  section: Uint8Array | SectionWriter,
  elementSize: number | undefined,
): { entry: SectionEntry; stored: Uint8Array | SectionWriter } {
  const length = section.byteLength;
  const plain = { entry: { name, length, crc32: "00000000" }, stored: section };
  if (elementSize === undefined) return plain;
  const bytes = section instanceof Uint8Array ? section : new Uint8Array(length);
  if (bytes !== section) writeSection(section, bytes);
  const coded = codeSection(bytes, elementSize);
  if (coded === undefined) return { ...plain, stored: bytes };
  return { entry: { ...plain.entry, length: coded.byteLength, coded: { elementSize, length } }, stored: coded };
}

/** The header's bytes: JSON, and blanks up to where sections may begin. */
function headerBytes(header: Record<string, unknown>, entries: readonly SectionEntry[]): Uint8Array {
  const json = Buffer.from(JSON.stringify({ ...header, sections: entries }));
  const excess = (PREAMBLE_BYTES + json.byteLength) % ALIGNMENT;
  return excess === 0 ? json : Buffer.concat([json, Buffer.alloc(ALIGNMENT - excess, " ")]);
}

/**
 * Layout: magic and version, header length, SHA-256 of the header, header (JSON with a table of sections), sections.
 * @param options.elementSize bytes per element of the sections, which are then entropy-coded if they get smaller
 */
export function encodeContainer(
  container: NewContainer,
  { elementSize }: { elementSize?: number | undefined } = {},
): Uint8Array {
  const sections = [...container.sections].map(([name, section]) => entryOf(name, section, elementSize));
  const entries = sections.map(({ entry }) => entry);
  // Checksums are as long as what holds their place, so the header can be written after the sections.
  const start = PREAMBLE_BYTES + headerBytes(container.header, entries).byteLength;
  const bytes = new Uint8Array(entries.reduce((sum, { length }) => sum + length, start));
  let offset = start;
  for (const { entry, stored } of sections) {
    const target = bytes.subarray(offset, offset + entry.length);
    writeSection(stored, target);
    entry.crc32 = checksum(target);
    offset += entry.length;
  }
  const header = headerBytes(container.header, entries);
  bytes.set(MAGIC);
  bytes[MAGIC.length] = VERSION;
  new DataView(bytes.buffer).setUint32(MAGIC.length + 1, header.byteLength, true);
  bytes.set(sha256(header), MAGIC.length + 1 + 4);
  bytes.set(header, PREAMBLE_BYTES);
  return bytes;
}

function isSize(value: unknown, least: number): boolean {
  return Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= MAX_SECTION_BYTES;
}

function isSectionEntry(value: unknown): value is SectionEntry {
  const { name, length, coded } = (value ?? {}) as Partial<Record<string, unknown>>;
  if (typeof name !== "string" || !isSize(length, 0)) return false;
  if (coded === undefined) return true;
  const { elementSize, length: size } = (coded ?? {}) as Partial<Record<string, unknown>>;
  if (!isSize(elementSize, 1) || Number(elementSize) > 8 || !isSize(size, 0)) return false;
  // A few bytes must not become gigabytes.
  return canUnpackTo(Number(size), Number(length));
}

/** Whether a section is what was written. */
function isIntact(section: Uint8Array, entry: SectionEntry, version: number): boolean {
  return version === 1 ? sha256(section).toString("hex") === entry.sha256 : checksum(section) === entry.crc32;
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

/** The version of a container's format. */
function readVersion(bytes: Uint8Array): number {
  if (
    !(bytes instanceof Uint8Array) ||
    bytes.byteLength < PREAMBLE_BYTES ||
    MAGIC.some((byte, i) => bytes[i] !== byte)
  ) {
    throw corrupt("it does not begin like one");
  }
  const version = bytes[MAGIC.length] as number;
  if (!VERSIONS.includes(version)) throw corrupt(`its format version ${version} is unknown`);
  return version;
}

/** The header of a container of which only the beginning is checked, and where it ends. */
function readHeader(bytes: Uint8Array): { table: ReturnType<typeof readTable>; end: number } {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = PREAMBLE_BYTES + view.readUInt32LE(MAGIC.length + 1);
  if (end > bytes.byteLength) throw corrupt("its header is cut off");
  const header = view.subarray(PREAMBLE_BYTES, end);
  if (!sha256(header).equals(view.subarray(PREAMBLE_BYTES - DIGEST_BYTES, PREAMBLE_BYTES)))
    throw corrupt("its header was changed");
  return { table: readTable(header), end };
}

/**
 * The header of a container, and where its sections lie, which are not checked.
 * @throws SNAPSHOT_CORRUPT for a header that {@link encodeContainer} did not write
 */
export function sectionTable(bytes: Uint8Array): {
  header: Record<string, unknown>;
  sections: { name: string; start: number; end: number }[];
} {
  readVersion(bytes);
  const { table, end: headerEnd } = readHeader(bytes);
  let end = headerEnd;
  const sections = table.entries.map(({ name, length }) => ({ name, start: end, end: (end += length) }));
  return { header: table.header, sections };
}

/**
 * Reads a container of any version and checks every byte of it. Sections that are not coded lie in `bytes`.
 * @throws SNAPSHOT_CORRUPT for anything that {@link encodeContainer} did not write
 */
export function decodeContainer(bytes: Uint8Array): Container {
  const version = readVersion(bytes);
  const { table, end: headerEnd } = readHeader(bytes);
  const sections = new Map<string, Uint8Array>();
  let offset = headerEnd;
  for (const entry of table.entries) {
    const section = bytes.subarray(offset, offset + entry.length);
    if (section.byteLength !== entry.length) throw corrupt(`section "${entry.name}" is cut off`);
    if (!isIntact(section, entry, version)) throw corrupt(`section "${entry.name}" was changed`);
    sections.set(entry.name, entry.coded === undefined ? section : decoded(section, entry.coded, entry.name));
    offset += entry.length;
  }
  if (offset !== bytes.byteLength) throw corrupt("bytes follow its end");
  return { header: table.header, sections };
}
