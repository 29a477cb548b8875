/** @file Load on a server: sessions that are filled, streams that talk to them at random, and what came of it. */
import { randomNumbers } from "../scaling/arrivals.js";
import { call, chat, type StreamedAnswer } from "./client.js";

/** A session as the client knows it. */
export interface ClientSession {
  id: string;
  /** Time steps that the server has acknowledged. */
  steps: number;
  busy: boolean;
}

/** What streams have done. */
export interface LoadRecord {
  answers: StreamedAnswer[];
  /** Messages of whatever went wrong. */
  errors: string[];
}

/** How to make sessions. */
export interface FillOptions {
  sessions: number;
  streams: number;
  /** Body of `POST /v1/sessions`: method, adapter, options. */
  setup: object;
  /** Texts to begin with. */
  texts: readonly string[];
}

/** Least and most messages that a session begins with. */
const [FEWEST, MOST] = [2, 8] as const;

/** Does `work` for each item, several at once. */
async function inParallel<Item>(
  items: readonly Item[],
  count: number,
  work: (item: Item, index: number) => Promise<void>,
): Promise<void> {
  const entries = items.entries();
  const worker = async (): Promise<void> => {
    for (const [index, item] of entries) await work(item, index);
  };
  await Promise.all(Array.from({ length: count }, worker));
}

/** Makes sessions of different lengths. */
export async function fillSessions(
  url: string,
  { sessions, streams, setup, texts }: FillOptions,
  record: LoadRecord,
): Promise<ClientSession[]> {
  const all = Array.from({ length: sessions }, (_, index): ClientSession => ({
    id: `s${index}`,
    steps: 0,
    busy: false,
  }));
  await inParallel(all, streams, async (session, index) => {
    const count = FEWEST + (index % (MOST - FEWEST + 1));
    const messages = Array.from({ length: count }, (_, turn) => ({
      role: turn % 2 === 0 ? "user" : "assistant",
      content: texts[(index + turn) % texts.length],
    }));
    try {
      await call(`${url}/v1/sessions`, "POST", { id: session.id, ...setup });
      await call(`${url}/v1/sessions/${session.id}/append`, "POST", { messages });
      session.steps = count;
    } catch (error) {
      record.errors.push(error instanceof Error ? error.message : String(error));
    }
  });
  return all;
}

/** How streams talk. */
export interface TalkOptions {
  streams: number;
  milliseconds: number;
  maxTokens: number;
  texts: readonly string[];
  seed: number;
}

/** Keeps a number of streams busy with sessions chosen at random until the time is over. */
export async function talk(
  url: string,
  sessions: readonly ClientSession[],
  { streams, milliseconds, maxTokens, texts, seed }: TalkOptions,
  record: LoadRecord,
): Promise<void> {
  const random = randomNumbers(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)] as Item;
  const end = performance.now() + milliseconds;
  const stream = async (): Promise<void> => {
    while (performance.now() < end) {
      const session = pick(sessions.filter(({ busy }) => !busy));
      session.busy = true;
      try {
        const request = { session: session.id, content: pick(texts), maxTokens, temperature: 0.8 };
        record.answers.push(await chat(url, { ...request, seed: Math.floor(random() * 2 ** 31) }));
        session.steps++;
      } catch (error) {
        record.errors.push(error instanceof Error ? error.message : String(error));
      }
      session.busy = false;
    }
  };
  await Promise.all(Array.from({ length: streams }, stream));
}

/** Sessions that the server does not have as the client knows them: turns that were lost, or done twice. */
export async function findLost(url: string, sessions: readonly ClientSession[]): Promise<string[]> {
  const lost: string[] = [];
  for (const { id, steps } of sessions) {
    const { memory } = await call<{ memory: { steps: number } }>(`${url}/v1/sessions/${id}`, "GET");
    if (memory.steps !== steps) lost.push(`${id}: ${memory.steps} steps, not ${steps}`);
  }
  return lost;
}

/** One round of {@link compareThroughput}. */
export interface ThroughputRound {
  /** Tokens per second. */
  alone: number;
  together: number;
  /** Share of answers that are the same text. */
  same: number;
}

/** The same requests one by one and all at once, on copies of the same sessions. */
export async function compareThroughput(
  url: string,
  sessions: readonly ClientSession[],
  { maxTokens, texts, togetherFirst }: { maxTokens: number; texts: readonly string[]; togetherFirst: boolean },
): Promise<ThroughputRound> {
  const copies = async (name: string): Promise<string[]> => {
    const ids = sessions.map(({ id }) => `${name}-${id}`);
    for (const [index, id] of ids.entries()) {
      await call(`${url}/v1/sessions/${sessions[index]?.id}/fork`, "POST", { id });
    }
    return ids;
  };
  const ask = (id: string, index: number): Promise<StreamedAnswer> =>
    chat(url, { session: id, content: texts[index % texts.length] as string, maxTokens });
  const alone = async (ids: readonly string[]): Promise<StreamedAnswer[]> => {
    const answers: StreamedAnswer[] = [];
    for (const [index, id] of ids.entries()) answers.push(await ask(id, index));
    return answers;
  };
  const together = (ids: readonly string[]): Promise<StreamedAnswer[]> => Promise.all(ids.map(ask));
  const [first, second] = [await copies("alone"), await copies("together")];
  const both = { alone: [] as StreamedAnswer[], together: [] as StreamedAnswer[] };
  if (togetherFirst) both.together = await together(second);
  both.alone = await alone(first);
  if (!togetherFirst) both.together = await together(second);
  for (const id of [...first, ...second]) await call(`${url}/v1/sessions/${id}`, "DELETE");
  const same = both.alone.filter(({ text }, index) => text === both.together[index]?.text).length;
  return { alone: rateOf(both.alone), together: rateOf(both.together), same: same / sessions.length };
}

/** Tokens per second of all answers, from the first request to the last end. */
export function rateOf(answers: readonly StreamedAnswer[]): number {
  const tokens = answers.reduce((sum, answer) => sum + answer.tokens, 0);
  const from = Math.min(...answers.map(({ startedAt }) => startedAt));
  const to = Math.max(...answers.map(({ endedAt }) => endedAt));
  return (1000 * tokens) / (to - from);
}
