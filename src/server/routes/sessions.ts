/** @file `/v1/sessions`: memories by name. */
import { PrecisError } from "../../errors.js";
import type { Memory } from "../../index.js";
import { ApiError, invalidRequest } from "../api-error.js";
import { readBytes } from "../body.js";
import { checked, clientSignal, readBody, type Request, type Services } from "../context.js";
import { toMessages } from "../messages.js";
import { adapterFolders, completeSetup, type MemorySetup, type ServedModel } from "../models.js";
import {
  appendRequest,
  createSessionRequest,
  forkRequest,
  importQuery,
  listSessionsQuery,
  rewindRequest,
  type AppendRequest,
} from "../schemas/sessions.js";
import { afterMessages, afterText } from "../sessions/chain.js";
import { stepMissing } from "../sessions/refusals.js";
import { freshId, type Session } from "../sessions/session.js";
import { countTokens } from "../turns.js";
import { memoryUsage } from "../usage.js";

/** A session as the API shows it. */
export function sessionView(session: Session): object {
  const { id, served, setup, created, used, parent, metadata, states, memory, stats } = session;
  const { method, adapter, span_adapter: span, options } = setup;
  return {
    id,
    object: "session",
    created_at: created,
    last_used_at: used,
    model: served.id,
    method: method ?? null,
    adapter: adapter ?? null,
    span_adapter: span ?? null,
    options: options ?? {},
    parent: parent ?? null,
    metadata,
    step: stats.steps,
    memory: memoryUsage(stats),
    resident: memory !== undefined,
    checkpoints: states.map((state) => ({
      step: state.stats.steps,
      tokens_seen: state.stats.tokensSeen,
      bytes: state.size,
      created_at: state.created,
    })),
  };
}

/** The session that a path names. @throws ApiError 404 */
export async function named(c: Request, { sessions }: Services): Promise<Session> {
  return sessions.find(c.get("namespace"), c.req.param("id") ?? "");
}

/** Makes a session. */
export async function createSession(c: Request, services: Services): Promise<Response> {
  const { id, model, metadata = {}, ...asked } = await readBody(c, createSessionRequest);
  const served = services.models.find(model);
  // Unknown methods and options are refused now rather than at the first turn.
  const setup = await services.sessions.resolve(served, completeSetup(served, asked));
  const session = services.sessions.draft(c.get("namespace"), served, setup, { kind: "explicit", id });
  session.metadata = metadata;
  await services.sessions.register(session);
  await session.lock.run(() => services.sessions.save(session));
  return c.json(sessionView(session), 201);
}

/** Lists sessions, newest first. */
export async function listSessions(c: Request, services: Services): Promise<Response> {
  const { limit, after, order } = checked(c.req.query(), listSessionsQuery);
  const index = await services.sessions.sync(c.get("namespace"));
  const direction = order === "asc" ? 1 : -1;
  const all = [...index.sessions.values()]
    .filter(({ kind }) => kind === "explicit")
    .sort((a, b) => direction * (a.created - b.created || (a.id < b.id ? -1 : 1)));
  const start = after === undefined ? 0 : all.findIndex(({ id }) => id === after) + 1;
  if (after !== undefined && start === 0) throw invalidRequest("after", `There is no session "${after}".`);
  const page = all.slice(start, start + limit);
  return c.json({
    object: "list",
    data: page.map(sessionView),
    first_id: page[0]?.id ?? null,
    last_id: page.at(-1)?.id ?? null,
    has_more: start + page.length < all.length,
  });
}

/** Shows a session. */
export async function getSession(c: Request, services: Services): Promise<Response> {
  return c.json(sessionView(await named(c, services)));
}

/** Takes context in, a time step per message or text; all of it or, if it fails, nothing. */
export async function appendToSession(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  const body = await readBody(c, appendRequest);
  const { signal } = clientSignal(c);
  const { bytesPerSlot } = session.served.model.info;
  const messages = toMessages(body.messages ?? [], "messages");
  const texts = typeof body.text === "string" ? [body.text] : (body.text ?? []);
  const tokens = await countTokens(session.served, messages, texts.join("\n"));
  const bytes = session.stats.bytes + tokens * bytesPerSlot;
  await services.sessions.use(session, { bytes, signal }, async (memory, combined) => {
    const copy = await memory.fork();
    try {
      if (messages.length > 0) await copy.append(messages, { signal: combined });
      for (const text of texts) await copy.append(text, { signal: combined });
    } catch (error) {
      await copy.dispose();
      throw error;
    }
    const chain = appendedChain(session, messages, texts);
    await services.sessions.commit(session, copy, { chain });
  });
  return c.json(sessionView(session));
}

function appendedChain(
  { chain }: Session,
  messages: Parameters<typeof afterMessages>[1],
  texts: readonly NonNullable<AppendRequest["text"]>[number][],
): string {
  return texts.reduce<string>((before, text) => afterText(before, text), afterMessages(chain, messages));
}

/** Copies a session, as it is or as it was at an earlier step. */
export async function forkSession(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  const { id, step } = await readBody(c, forkRequest);
  const { signal } = clientSignal(c);
  const { served, setup, metadata, namespace } = session;
  const state = step === undefined ? session.head : session.states.find(({ stats }) => stats.steps === step);
  if (state === undefined && step !== undefined) throw stepMissing(session, step);
  const origin = state && { session, state };
  const fork = services.sessions.draft(namespace, served, setup, { kind: "explicit", id, origin });
  fork.metadata = { ...metadata };
  fork.parent = session.id;
  await services.sessions.register(fork);
  if (state === undefined) {
    await fork.lock.run(() => services.sessions.save(fork));
    return c.json(sessionView(fork), 201);
  }
  await adopt(fork, { services, chain: state.chain, bytes: 0, signal });
  return c.json(sessionView(fork), 201);
}

/**
 * Gives a registered session its first state, and takes it back if that fails.
 * @param bytes of its memory where it is in the engine already
 */
async function adopt(
  session: Session,
  { services, chain, bytes, signal }: { services: Services; chain: string; bytes: number; signal: AbortSignal },
): Promise<void> {
  try {
    await services.sessions.use(session, { bytes, signal }, (memory) =>
      services.sessions.commit(session, memory, { chain }),
    );
  } catch (error) {
    if (!session.deleted) await services.sessions.delete(session);
    throw error;
  }
}

/** Goes back to an earlier step. */
export async function rewindSession(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  const { step } = await readBody(c, rewindRequest);
  const { signal } = clientSignal(c);
  await services.sessions.exclusive(session, { signal }, () => services.sessions.rewind(session, step));
  return c.json(sessionView(session));
}

/** Deletes a session with all its states. */
export async function deleteSession(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  await services.sessions.delete(session, clientSignal(c).signal);
  return c.json({ id: session.id, object: "session.deleted", deleted: true });
}

/** Hands out the snapshot of a session. */
export async function exportSession(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  const state = session.head;
  if (state === undefined) {
    throw new ApiError(409, "session_empty", `Session "${session.id}" holds nothing yet.`, {
      nextStep: "Append something first.",
    });
  }
  const bytes = await services.sessions.snapshot({ session, state });
  return new Response(new Uint8Array(bytes), {
    headers: {
      "content-type": "application/octet-stream",
      "content-disposition": `attachment; filename="${session.id}.precis"`,
    },
  });
}

/** Makes a session of a snapshot. */
export async function importSession(c: Request, services: Services): Promise<Response> {
  const { id, model, ...adapters } = checked(c.req.query(), importQuery);
  const served = services.models.find(model);
  if (adapters.adapter !== undefined || adapters.span_adapter !== undefined) completeSetup(served, adapters);
  const bytes = await readBytes(c, "application/octet-stream");
  const { memory, name } = await restoreWithAny(served, bytes, adapters);
  const { method, options } = memory;
  const setup = { ...adapters, method, adapter: name, options };
  const session = services.sessions.draft(c.get("namespace"), served, setup, { kind: "explicit", id });
  session.memory = memory;
  try {
    await services.sessions.register(session);
  } catch (error) {
    await services.sessions.abandon(session);
    throw error;
  }
  // Nobody knows what was said to it, so no conversation sent in full will match.
  const { bytes: size } = await memory.stats();
  await adopt(session, { services, chain: freshId("imported"), bytes: size, signal: clientSignal(c).signal });
  return c.json(sessionView(session), 201);
}

/** Restores a snapshot with the adapter that it was made with: the named one, or the only one that fits. */
async function restoreWithAny(
  served: ServedModel,
  bytes: Uint8Array,
  { adapter, span_adapter }: Pick<MemorySetup, "adapter" | "span_adapter">,
): Promise<{ memory: Memory; name: string | undefined }> {
  const names = adapter === undefined ? [undefined, ...served.adapters.map(({ name }) => name)] : [adapter];
  let mismatch: unknown;
  for (const name of names) {
    try {
      const memory = await served.model.restoreMemory(bytes, adapterFolders(served, { adapter: name, span_adapter }));
      return { memory, name };
    } catch (error) {
      if (!(error instanceof PrecisError) || error.code !== "SNAPSHOT_MISMATCH") throw error;
      mismatch = error;
    }
  }
  throw mismatch;
}
