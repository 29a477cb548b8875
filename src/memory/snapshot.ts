/** @file A memory as bytes and back: its rows, and everything needed to check that they belong to this model. */
import { decodeContainer, encodeContainer, type SectionWriter } from "../codec/container.js";
import {
  decodeRows,
  elementBytes,
  encodeRows,
  rowBytes,
  SNAPSHOT_PRECISIONS,
  type SnapshotPrecision,
} from "../codec/row-precision.js";
import { PrecisError } from "../errors.js";
import { KvRow } from "../cache/kv-row.js";
import { packOrigins, unpackOrigins } from "../cache/slot-origin.js";
import type { OptionValues } from "./method.js";
import type { MemorySession, SessionState } from "./session.js";
import { planSections, RUN_SLOTS, type SectionPlan } from "./snapshot-layout.js";
import {
  readHeader,
  readIdentity,
  type ConversationState,
  type ModelIdentity,
  type SnapshotHeader,
} from "./snapshot-header.js";

/**
 * Keys and values stay far below it in any model, and sums of what they are multiplied with far from overflow. Rows that
 * hold more were made to break attention.
 */
const LARGEST_VALUE = 1e9;

export type { SnapshotPrecision } from "../codec/row-precision.js";
export type { ConversationState, ModelIdentity } from "./snapshot-header.js";

/** The session that a snapshot describes, for building it again. */
export interface RestoredSession extends SessionState {
  method: string;
  options: OptionValues;
  methodState: Record<string, unknown>;
  tokenChain: string;
  messages: ConversationState;
}

/** The bytes of a session. `messages` is what the chat template needs to continue; `compress` asks for entropy coding. */
export function encodeSnapshot(
  session: MemorySession,
  identity: ModelIdentity,
  extra: { tokenChain: string; messages: ConversationState; precision: SnapshotPrecision; compress: boolean },
): Uint8Array {
  if (!SNAPSHOT_PRECISIONS.includes(extra.precision)) {
    throw new PrecisError("OPTION_INVALID", `There is no precision "${String(extra.precision)}".`, {
      value: extra.precision,
      nextStep: `Use one of ${SNAPSHOT_PRECISIONS.join(", ")}.`,
    });
  }
  const { row } = session;
  const header: SnapshotHeader = {
    identity,
    method: session.method.name,
    options: session.options,
    precision: extra.precision,
    slots: row.length,
    runSlots: RUN_SLOTS,
    positions: [...row.positions],
    kinds: [...row.kinds],
    origins: packOrigins(row.origins),
    position: session.position,
    tokensSeen: session.tokensSeen,
    steps: session.steps,
    openStart: session.openStart,
    openIds: session.openIds,
    openPurpose: session.openPurpose,
    methodState: session.behavior.state,
    tokenChain: extra.tokenChain,
    messages: extra.messages,
  };
  const elementSize = extra.compress ? elementBytes(extra.precision) : undefined;
  return encodeContainer({ header: { ...header }, sections: rowSections(row, extra.precision) }, { elementSize });
}

/** The rows as sections. */
function rowSections(row: KvRow, precision: SnapshotPrecision): Map<string, SectionWriter> {
  const { headDim } = row.shape;
  const section = ({ name, vectors, parts }: SectionPlan): [string, SectionWriter] => {
    const write = (bytes: Uint8Array): void => {
      let first = 0;
      for (const rows of parts(row)) {
        encodeRows(rows, first, { precision, headDim, bytes });
        first += rows.length / headDim;
      }
    };
    return [name, { byteLength: rowBytes(precision, vectors, headDim), write }];
  };
  return new Map(planSections(row.shape, row.length, RUN_SLOTS).map(section));
}

/** A plain loop, since rows of a long cache are millions of numbers and a callback for each would show. */
function areSmall(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i] as number) <= LARGEST_VALUE)) return false;
  return true;
}

function refuseForeign(found: ModelIdentity, expected: ModelIdentity): void {
  for (const field of Object.keys(expected) as (keyof ModelIdentity)[]) {
    if (found[field] === expected[field]) continue;
    throw new PrecisError(
      "SNAPSHOT_MISMATCH",
      `The snapshot was made with another ${field} (${found[field] || "none"}) than the one loaded (${expected[field] || "none"}).`,
      { value: found[field], nextStep: `Load the ${field} it was made with, or append the conversation's text again.` },
    );
  }
}

/**
 * Checks a snapshot completely and builds its rows; touches nothing else.
 * @throws SNAPSHOT_CORRUPT or SNAPSHOT_MISMATCH
 */
export function decodeSnapshot(
  bytes: Uint8Array,
  expected: ModelIdentity,
  { shape, vocabSize }: { shape: KvRow["shape"]; vocabSize: number },
): RestoredSession {
  const { header: raw, sections } = decodeContainer(bytes);
  refuseForeign(readIdentity(raw), expected);
  const header = readHeader(raw, vocabSize);
  const { precision, positions, kinds } = header;
  const { headDim } = shape;
  const plan = planSections(shape, positions.length, header.runSlots);
  const bytesOf = ({ name, vectors }: SectionPlan): Uint8Array => {
    const section = sections.get(name);
    const expectedBytes = rowBytes(precision, vectors, headDim);
    if (section?.byteLength === expectedBytes) return section;
    throw new PrecisError(
      "SNAPSHOT_CORRUPT",
      `The snapshot's section "${name}" has ${section?.byteLength ?? 0} bytes, not ${expectedBytes}.`,
    );
  };
  // All of them before there is a row, which a forged count of slots could make huge.
  const filled = plan.map((section) => ({ ...section, bytes: bytesOf(section) }));
  const row = KvRow.blank(shape, { positions, kinds, origins: unpackOrigins(header.origins, positions.length) });
  for (const { name, parts, bytes: section } of filled) {
    let first = 0;
    for (const rows of parts(row)) {
      decodeRows(rows, first, { precision, headDim, bytes: section });
      first += rows.length / headDim;
      // At once, while what was just written is still in the processor's cache.
      if (areSmall(rows)) continue;
      throw new PrecisError("SNAPSHOT_CORRUPT", `The snapshot's section "${name}" holds NaN, or numbers too large.`);
    }
  }
  return { ...header, row };
}

/**
 * A memory keeps its method and options, so only rows that were made with them fit.
 * @throws SNAPSHOT_MISMATCH
 */
export function refuseOtherMethod(restored: RestoredSession, { method, options }: MemorySession): void {
  const describe = (name: string, values: OptionValues): string => `${name} ${JSON.stringify(values)}`;
  const [found, expected] = [describe(restored.method, restored.options), describe(method.name, options)];
  if (found === expected) return;
  throw new PrecisError("SNAPSHOT_MISMATCH", `The snapshot was made with ${found}, not ${expected}.`, {
    value: restored.method,
    nextStep: "Restore it into a memory of its own with model.restoreMemory.",
  });
}
