/** @file Reading the header of a snapshot: every field checked, so that nothing odd reaches a live memory. */
import { PrecisError } from "../errors.js";
import { SNAPSHOT_PRECISIONS, type SnapshotPrecision } from "../codec/row-precision.js";
import type { SlotKind } from "../cache/slot-list.js";
import { unpackOrigins } from "../cache/slot-origin.js";
import type { ChatMessage } from "../text/chat-template.js";
import { resolveOptions, type FeedPurpose, type MemoryMethod, type OptionValues } from "./method.js";
import { findMethod } from "./registry.js";

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

/** What a model has been told of tools; definitions as JSON. */
export interface ToldTools {
  /** Those that it was told of last. */
  known: string;
  /** Those that the chat template told of at the beginning, and is given with all that follows. */
  rendered?: string;
}

/** What the chat template needs to continue a conversation. */
export interface ConversationState {
  messages: ChatMessage[];
  started: boolean;
  told?: ToldTools;
}

/** Everything of a snapshot but its rows. */
export interface SnapshotHeader {
  identity: ModelIdentity;
  method: string;
  options: OptionValues;
  precision: SnapshotPrecision;
  slots: number;
  /** Slots of a run of rows; absent in snapshots that hold them layer by layer. */
  runSlots?: number;
  positions: number[];
  kinds: SlotKind[];
  /** As {@link unpackOrigins} reads them; absent in snapshots from before they were kept. */
  origins?: number[][];
  position: number;
  tokensSeen: number;
  steps: number;
  openStart: number;
  openIds: number[];
  openPurpose: FeedPurpose;
  methodState: Record<string, unknown>;
  tokenChain: string;
  messages: ConversationState;
}

const IDENTITY_FIELDS: readonly (keyof ModelIdentity)[] = [
  "model",
  "dtype",
  "tokenizer",
  "template",
  "rotary",
  "adapter",
];
const KINDS: ReadonlySet<unknown> = new Set<SlotKind>(["text", "sink", "memory", "span"]);

/** A SNAPSHOT_CORRUPT error about one field. */
function malformed(field: string): PrecisError {
  return new PrecisError("SNAPSHOT_CORRUPT", `The snapshot is damaged: its "${field}" makes no sense.`, {
    value: field,
    nextStep: "Use another copy, or append the conversation's text again.",
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isListOf(value: unknown, fits: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(fits);
}

function isConversation(value: unknown): boolean {
  if (!isRecord(value) || typeof value["started"] !== "boolean") return false;
  return isToldTools(value["told"]) && isListOf(value["messages"], isMessage);
}

function isMessage(value: unknown): boolean {
  if (!isRecord(value) || typeof value["role"] !== "string" || typeof value["content"] !== "string") return false;
  const { toolCalls = [], toolCallId = "" } = value;
  return typeof toolCallId === "string" && isListOf(toolCalls, isCall);
}

function isCall(value: unknown): boolean {
  return isRecord(value) && ["id", "name", "arguments"].every((field) => typeof value[field] === "string");
}

function isToldTools(value: unknown): boolean {
  if (value === undefined) return true;
  return (
    isRecord(value) && isToolList(value["known"]) && (value["rendered"] === undefined || isToolList(value["rendered"]))
  );
}

function isToolList(json: unknown): boolean {
  if (typeof json !== "string") return false;
  try {
    return isListOf(JSON.parse(json), (tool) => isRecord(tool) && typeof tool["name"] === "string");
  } catch {
    return false;
  }
}

/** Whether a method's stored state has the fields of a fresh one; numbers count something, and lists hold token ids. */
function isStateLike(state: unknown, fresh: Record<string, unknown>, isToken: (value: unknown) => boolean): boolean {
  if (!isRecord(state) || Object.keys(state).sort().join() !== Object.keys(fresh).sort().join()) return false;
  return Object.entries(fresh).every(([name, like]) => {
    const value = state[name];
    if (typeof like === "number") return isCount(value);
    return Array.isArray(like) ? isListOf(value, isToken) : typeof value === typeof like;
  });
}

/** The method of a snapshot and its options; both may be of another version. */
function readMethod(name: string, options: Record<string, unknown>): [MemoryMethod, OptionValues] {
  try {
    const method = findMethod(name);
    return [method, resolveOptions(method, options)];
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new PrecisError("SNAPSHOT_MISMATCH", `The snapshot was made by another version: ${reason}`, {
      value: name,
      cause: error,
    });
  }
}

/** @throws SNAPSHOT_CORRUPT unless the header says which model its rows belong to */
export function readIdentity(raw: Readonly<Record<string, unknown>>): ModelIdentity {
  const { identity } = raw;
  if (isRecord(identity) && IDENTITY_FIELDS.every((field) => typeof identity[field] === "string")) {
    return identity as unknown as ModelIdentity;
  }
  throw malformed("identity");
}

/**
 * A checked header.
 * @param vocabSize token ids must lie below it
 * @throws SNAPSHOT_CORRUPT for a field that no session could have written; SNAPSHOT_MISMATCH for an unknown method
 */
export function readHeader(raw: Readonly<Record<string, unknown>>, vocabSize: number): SnapshotHeader {
  const header = raw as unknown as SnapshotHeader;
  const { slots, positions, kinds, options, method, methodState } = header;
  const isToken = (value: unknown): boolean => isCount(value) && value < vocabSize;
  const check = (field: keyof SnapshotHeader, fits: boolean): void => {
    if (!fits) throw malformed(field);
  };
  readIdentity(raw);
  check("precision", SNAPSHOT_PRECISIONS.includes(header.precision));
  check("slots", isCount(slots));
  check("runSlots", header.runSlots === undefined || (isCount(header.runSlots) && header.runSlots > 0));
  check("positions", isListOf(positions, isCount) && positions.length === slots);
  check("kinds", isListOf(kinds, (kind) => KINDS.has(kind)) && kinds.length === slots);
  check("origins", header.origins === undefined || unpackOrigins(header.origins, slots) !== undefined);
  for (const field of ["position", "tokensSeen", "steps", "openStart"] as const) check(field, isCount(header[field]));
  check("openStart", header.openStart <= slots);
  check("openIds", isListOf(header.openIds, isToken));
  check("openPurpose", header.openPurpose === "context" || header.openPurpose === "input");
  check("tokenChain", typeof header.tokenChain === "string");
  check("messages", isConversation(header.messages));
  check("method", typeof method === "string");
  check("options", isRecord(options));
  const [found, resolved] = readMethod(method, options);
  check("methodState", isStateLike(methodState, found.create(resolved).state, isToken));
  check("methodState", found.fits?.(methodState, slots) ?? true);
  return { ...header, options: resolved };
}
