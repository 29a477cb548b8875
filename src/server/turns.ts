/** @file One turn of a session: take in history, answer an input once or several times, and keep the new state. */
import { AbortListeners } from "../abort-listeners.js";
import {
  MEMORY_METHODS,
  type ChatMessage,
  type GenerateOptions,
  type GenerationEvent,
  type GenerationResult,
  type Memory,
  type MemoryStats,
  type ToolCall,
  type ToolDefinition,
} from "../index.js";
import { offeredTools } from "./answer-form.js";
import { EventQueue } from "./event-queue.js";
import type { ServedModel } from "./models.js";
import { afterMessages, afterText } from "./sessions/chain.js";
import type { SessionManager } from "./sessions/session-manager.js";
import type { Session, SessionState } from "./sessions/session.js";

/** What is to be answered. */
export type TurnInput = readonly ChatMessage[] | string | readonly number[];

/** What a turn does. */
export interface TurnPlan {
  session: Session;
  /** Where the session must stand still when it is the turn's; undefined for wherever it stands. */
  from?: SessionState | undefined;
  /** Messages taken in before the input, a time step each. */
  history: readonly ChatMessage[];
  input: TurnInput;
  options: GenerateOptions & { maxTokens: number };
  /** Answers to give; the session goes on with the first one. */
  count: number;
  /** Whether the session is to be kept, with the new state. */
  keep: boolean;
  /** A response that ends in the new state. */
  response?: { id: string; body: (outcome: TurnOutcome) => unknown } | undefined;
}

/** An event of one of the answers. */
export interface TurnEvent {
  choice: number;
  event: GenerationEvent;
}

/** How a turn ended. */
export interface TurnOutcome {
  choices: GenerationResult[];
  before: MemoryStats;
  after: MemoryStats;
  /** Tokens of the history, and the time that they took. */
  history: { tokens: number; ms: number };
}

/** A turn in progress. It goes on whether or not its events are read; its signal ends it. */
export interface Turn {
  events: EventQueue<TurnEvent>;
  outcome: Promise<TurnOutcome>;
}

/** Positions kept free for what the chat template puts after an answer. */
const CLOSING_TOKENS = 16;
/** Most tokens that a template puts around a message, as far as we guess. */
const MESSAGE_OVERHEAD = 16;
/** Most tokens around a call in a message, and a part of those that tell of a tool. */
const CALL_OVERHEAD = 32;

/** Starts a turn. */
export function startTurn(manager: SessionManager, plan: TurnPlan, signal: AbortSignal): Turn {
  const events = new EventQueue<TurnEvent>();
  const outcome = runTurn(manager, plan, signal, events);
  outcome
    .finally(() => {
      plan.session.claimed = false;
    })
    .then(
      () => events.close(),
      (error: unknown) => events.close(error),
    );
  return { events, outcome };
}

async function runTurn(
  manager: SessionManager,
  plan: TurnPlan,
  signal: AbortSignal,
  events: EventQueue<TurnEvent>,
): Promise<TurnOutcome> {
  const { session, count } = plan;
  const { bytesPerSlot } = session.served.model.info;
  let kept = false;
  try {
    const tokens = await countTokens(session.served, plan.history, plan.input, offeredTools(plan.options));
    const perChoice = session.stats.bytes + (tokens + plan.options.maxTokens) * bytesPerSlot;
    const use = { bytes: count * perChoice, signal, from: plan.from };
    return await manager.use(session, use, async (memory, combined) => {
      const outcome = await answerAll(manager, plan, { memory, tokens, signal: combined, events });
      kept = plan.keep;
      return outcome;
    });
  } finally {
    // A session that was made for this turn and came to nothing, or was never meant to last.
    if (!kept && session.states.length === 0 && session.version === undefined) await manager.abandon(session);
  }
}

interface TurnWork {
  memory: Memory;
  /** Tokens of history and input, at most. */
  tokens: number;
  signal: AbortSignal;
  events: EventQueue<TurnEvent>;
}

async function answerAll(
  manager: SessionManager,
  plan: TurnPlan,
  { memory, tokens, signal, events }: TurnWork,
): Promise<TurnOutcome> {
  const { session, history, count } = plan;
  const before = await memory.stats();
  const branches: Memory[] = [];
  try {
    // History and answers succeed together or not at all, so several of them work on copies.
    const copied = history.length > 0 || count > 1;
    const base = copied ? await memory.fork() : memory;
    if (copied) branches.push(base);
    const startedAt = performance.now();
    const read = history.length === 0 ? before : await base.append(history, { signal, ...told(plan) });
    const ms = performance.now() - startedAt;
    for (let choice = 1; choice < count; choice++) branches.push(await base.fork());
    const maxTokens = fittingTokens(session.served, base, { slots: read.slots, tokens, asked: plan.options.maxTokens });
    const answering = branches.length === 0 ? [base] : branches;
    const choices = await answerEach(answering, { ...plan, options: { ...plan.options, maxTokens } }, signal, events);
    const after = await base.stats();
    const outcome = { choices, before, after, history: { tokens: read.tokensSeen - before.tokensSeen, ms } };
    if (plan.keep) await keep(manager, plan, { memories: answering, outcome });
    // What was kept belongs to sessions now.
    if (plan.keep) branches.splice(0, session.kind === "chat" ? branches.length : Math.min(1, branches.length));
    return outcome;
  } finally {
    await Promise.all(branches.map((branch) => branch.dispose()));
  }
}

/** All answers at once; if one fails, the others are given up. */
async function answerEach(
  memories: readonly Memory[],
  { input, options }: TurnPlan,
  signal: AbortSignal,
  events: EventQueue<TurnEvent>,
): Promise<GenerationResult[]> {
  const giveUp = new AbortController();
  const answerOne = async (memory: Memory, choice: number, combined: AbortSignal): Promise<GenerationResult> => {
    const seed = options.seed === undefined ? undefined : options.seed + choice;
    let result: GenerationResult | undefined;
    for await (const event of memory.generate(input, { ...options, seed, signal: combined })) {
      events.push({ choice, event });
      if (event.type === "finish") result = event;
    }
    return result as GenerationResult;
  };
  const ends = await new AbortListeners().withAny([signal, giveUp.signal], (combined) =>
    Promise.allSettled(
      memories.map((memory, choice) =>
        answerOne(memory, choice, combined).catch((error: unknown) => {
          giveUp.abort(error);
          throw error;
        }),
      ),
    ),
  );
  if (giveUp.signal.aborted) throw giveUp.signal.reason;
  return ends.flatMap((end) => (end.status === "fulfilled" ? [end.value] : []));
}

/** Saves the first answer as the session's present state. Of a conversation sent in full, any answer may be taken up. */
async function keep(
  manager: SessionManager,
  { session, history, input, response }: TurnPlan,
  { memories, outcome }: { memories: readonly Memory[]; outcome: TurnOutcome },
): Promise<void> {
  const asked = isMessages(input)
    ? afterMessages(session.chain, [...history, ...input])
    : afterText(afterMessages(session.chain, history), input);
  const { served, namespace, setup, kind } = session;
  for (const [choice, memory] of memories.entries()) {
    const { text, toolCalls } = outcome.choices[choice] as GenerationResult;
    const chain = isMessages(input)
      ? afterMessages(asked, [{ role: "assistant", content: text, toolCalls }])
      : afterText(asked, text);
    if (choice === 0) {
      const stored = response && { id: response.id, body: response.body(outcome) as never };
      await manager.commit(session, memory, { chain, response: stored });
    } else if (kind === "chat") {
      const other = manager.draft(namespace, served, setup, { kind });
      await manager.commit(other, memory, { chain });
      manager.settle(other);
    }
  }
}

/** Tools that the model is told of before the history, where a conversation begins. */
function told({ options }: TurnPlan): { tools?: readonly ToolDefinition[] } {
  const tools = offeredTools(options);
  return tools === undefined ? {} : { tools };
}

function isMessages(input: TurnInput): input is readonly ChatMessage[] {
  return typeof input !== "string" && typeof input[0] === "object";
}

/** Tokens of messages and inputs, rounded up by what a template may add. */
export async function countTokens(
  { model }: ServedModel,
  history: readonly ChatMessage[],
  input: TurnInput,
  tools: readonly ToolDefinition[] = [],
): Promise<number> {
  const messages = [...history, ...(isMessages(input) ? input : [])];
  const texts = messages.map(({ content, toolCalls = [] }) => [content, ...toolCalls.map(callLength)].join("\n"));
  const described = tools.length === 0 ? "" : JSON.stringify(tools);
  const text = described + texts.join("\n") + (typeof input === "string" ? input : "");
  const ids = !isMessages(input) && typeof input !== "string" ? input.length : 0;
  const read = text === "" ? 0 : (await model.tokenize(text)).length;
  const calls = messages.reduce((sum, { toolCalls = [] }) => sum + toolCalls.length, 0);
  return read + ids + MESSAGE_OVERHEAD * (messages.length + 1) + CALL_OVERHEAD * (calls + 4 * tools.length);
}

/** What of a call is text of its own. */
function callLength({ name, arguments: given }: ToolCall): string {
  return name + given;
}

/** Tokens that an answer may have before the model runs out of positions; methods with a window never do. */
function fittingTokens(
  { model }: ServedModel,
  { method, options }: Memory,
  { slots, tokens, asked }: { slots: number; tokens: number; asked: number },
): number {
  const behavior = MEMORY_METHODS.find(({ name }) => name === method)?.create(options as Record<string, never>);
  if (behavior?.unlimited === true) return asked;
  return Math.max(1, Math.min(asked, model.info.maxPositions - slots - tokens - CLOSING_TOKENS));
}
