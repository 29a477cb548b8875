/** @file A memory as bytes and back: its rows, and everything needed to check that they belong to this model. */
import { decodeContainer, encodeContainer } from "../codec/container.js";
import { PrecisError } from "../errors.js";
import { KvRow, type SlotKind } from "../cache/kv-row.js";
import { floatToHalf, toFloat32 } from "../tensor/dtype.js";
import type { FeedPurpose, OptionValues } from "./method.js";
import type { MemorySession, SessionState } from "./session.js";

/** What rows depend on. Two sessions can exchange rows only if all of it is equal. */
export interface ModelIdentity {
  /** Digest of the weights and the configuration. */
  model: string;
  /** Weights as they run: stored, fp16, int8 or int4. */
  dtype: string;
  tokenizer: string;
  template: string;
  /** RoPE parameters of the model, as they were used. */
  rotary: string;
  /** Digest of the adapter; "" without one. */
  adapter: string;
}

/** Element type of stored rows: exact, or half the size. */
export type SnapshotPrecision = "fp32" | "fp16";

/** The session that a snapshot describes, for building it again. */
export interface RestoredSession extends SessionState {
  method: string;
  options: OptionValues;
  methodState: Record<string, unknown>;
  tokenChain: string;
  messages: unknown;
}

interface Header {
  identity: ModelIdentity;
  method: string;
  options: OptionValues;
  precision: SnapshotPrecision;
  slots: number;
  positions: number[];
  kinds: SlotKind[];
  position: number;
  tokensSeen: number;
  steps: number;
  openStart: number;
  openIds: number[];
  openPurpose: FeedPurpose;
  methodState: Record<string, unknown>;
  tokenChain: string;
  messages: unknown;
}

function encodeRows(rows: Float32Array, precision: SnapshotPrecision): Uint8Array {
  if (precision === "fp32") return new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
  return new Uint8Array(Uint16Array.from(rows, floatToHalf).buffer);
}

/** The bytes of a session. `messages` is what the chat template needs to continue; any JSON. */
export function encodeSnapshot(
  session: MemorySession,
  identity: ModelIdentity,
  extra: { tokenChain: string; messages: unknown; precision: SnapshotPrecision },
): Uint8Array {
  const contents = session.row.export();
  const header: Header = {
    identity,
    method: session.method.name,
    options: session.options,
    precision: extra.precision,
    slots: session.row.length,
    positions: contents.positions,
    kinds: contents.kinds,
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
  const sections = new Map<string, Uint8Array>();
  contents.keys.forEach((keys, layer) => sections.set(`keys.${layer}`, encodeRows(keys, extra.precision)));
  contents.values.forEach((values, layer) => sections.set(`values.${layer}`, encodeRows(values, extra.precision)));
  return encodeContainer({ header: { ...header }, sections });
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
export function decodeSnapshot(bytes: Uint8Array, expected: ModelIdentity, shape: KvRow["shape"]): RestoredSession {
  const { header: raw, sections } = decodeContainer(bytes);
  // The digest of the header has been checked, so it is one of ours, and only the model may differ.
  const header = raw as unknown as Header;
  refuseForeign(header.identity, expected);
  const rows = (name: string): Float32Array => {
    const section = sections.get(name);
    if (section === undefined) throw new PrecisError("SNAPSHOT_CORRUPT", `The snapshot has no section "${name}".`);
    return toFloat32(section, header.precision === "fp16" ? "float16" : "float32");
  };
  const layers = Array.from({ length: shape.layers }, (_, layer) => layer);
  const row = KvRow.import(shape, {
    keys: layers.map((layer) => rows(`keys.${layer}`)),
    values: layers.map((layer) => rows(`values.${layer}`)),
    positions: header.positions,
    kinds: header.kinds,
  });
  return { ...header, row };
}
