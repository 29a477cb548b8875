/** @file Puts a memory together from what it is asked to be, or from a snapshot: adapters, method, session, conversation. */
import { resolveOptions } from "../memory/method.js";
import { findMethod } from "../memory/registry.js";
import { MemorySession } from "../memory/session.js";
import { decodeSnapshot, refuseOtherMethod } from "../memory/snapshot.js";
import { SpanAsker } from "../memory/spans/caller-spans.js";
import { Conversation } from "./conversation.js";
import type { LoadedModel } from "./loaded-model.js";
import { MemoryEntry } from "./memory-entry.js";
import type { EngineOperations, MemoryRequest } from "./protocol.js";

/**
 * A new, empty memory.
 * @throws METHOD_UNKNOWN, OPTION_INVALID, ADAPTER_MISMATCH, and what loading an adapter throws
 */
export async function newMemory(
  model: LoadedModel,
  { method, options = {}, adapter, spanAdapter, spanPort }: MemoryRequest,
): Promise<MemoryEntry> {
  const loaded = adapter === undefined ? undefined : await model.adapter(adapter);
  const chosen = findMethod(method ?? loaded?.adapter.method ?? "full");
  const trained = loaded?.adapter.method === chosen.name ? loaded.adapter.methodOptions : {};
  const resolved = resolveOptions(chosen, { ...trained, ...options });
  const session = new MemorySession(model.runner, chosen, resolved, loaded?.adapter, undefined, {
    words: model.words,
    spanAdapter: spanAdapter === undefined ? undefined : (await model.adapter(spanAdapter)).adapter,
    spanAsker: spanPort && new SpanAsker(spanPort),
  });
  const conversation = new Conversation(model, session.behavior.readsMarks);
  return new MemoryEntry(session, conversation, loaded?.info);
}

/**
 * A memory with the contents of a snapshot.
 * @param present the memory that is to hold them: its function chooses spans, and its adapters are used where none is named
 * @throws SNAPSHOT_CORRUPT, SNAPSHOT_MISMATCH, ADAPTER_MISMATCH, and what loading an adapter throws
 */
export async function restoredMemory(
  model: LoadedModel,
  {
    bytes,
    adapter: adapterDirectory,
    spanAdapter: spanDirectory,
    spanPort,
  }: Omit<EngineOperations["restore"][0], "memory">,
  present?: MemoryEntry,
): Promise<MemoryEntry> {
  const loaded = adapterDirectory === undefined ? undefined : await model.adapter(adapterDirectory);
  const adapter = loaded?.adapter ?? present?.session.adapter;
  const spanAdapter =
    spanDirectory === undefined ? present?.session.spanAdapter : (await model.adapter(spanDirectory)).adapter;
  const { shape } = model.runner;
  const restored = decodeSnapshot(bytes, model.identity(adapter, spanAdapter), {
    shape,
    vocabSize: model.info.vocabSize,
  });
  if (present !== undefined) refuseOtherMethod(restored, present.session);
  const method = findMethod(restored.method);
  const session = new MemorySession(model.runner, method, restored.options, adapter, restored, {
    words: model.words,
    spanAdapter,
    spanAsker: present === undefined ? spanPort && new SpanAsker(spanPort) : present.session.spanAsker,
  });
  const conversation = new Conversation(model, session.behavior.readsMarks, restored.messages);
  return new MemoryEntry(session, conversation, loaded?.info ?? present?.adapterInfo, restored.tokenChain);
}
