/** @file What is measured: each task gives one rate, in tokens per second, per engine and round. */
import type { Conversation, Engine, TokenIds } from "./engines/engine.js";
import { decodeRate, prefillRate } from "./measure.js";
import { SMOLLM2_135M } from "./weights/shape.js";
import { xorshift } from "./weights/random.js";
import { SPECIAL_TOKENS } from "./weights/vocabulary.js";

/** Names of the tasks, in the order of the report. */
export const TASK_NAMES = ["prefill", "decode", "conversation", "batch"] as const;

/** Name of a task. */
export type TaskName = (typeof TASK_NAMES)[number];

/** One engine's part in a task. */
export interface Task {
  run(): Promise<number>;
}

/** Sizes of the tasks. */
export interface TaskSizes {
  prefillTokens: number;
  cachedTokens: number;
  conversationTokens: number;
  sessions: number;
  /** Tokens decoded per measurement. */
  decodeTokens: number;
}

/** What each task is about, for the report. */
export function describeTask(name: TaskName, sizes: TaskSizes): string {
  switch (name) {
    case "prefill":
      return `prefill of ${sizes.prefillTokens} tokens`;
    case "decode":
      return `decode at ${sizes.cachedTokens} cached tokens`;
    case "conversation":
      return `decode after a conversation of ${sizes.conversationTokens} tokens`;
    case "batch":
      return `decode ${sizes.sessions} sessions of different lengths`;
  }
}

/** Prompt tokens of each session of a batch: evenly spread, {@link TaskSizes.cachedTokens} on average. */
export function sessionLengths({ sessions, cachedTokens }: TaskSizes): number[] {
  const step = Math.floor((1.5 * cachedTokens) / sessions);
  return Array.from({ length: sessions }, (_, index) => Math.round(cachedTokens + (index - (sessions - 1) / 2) * step));
}

/** A source of random ordinary token ids, the same in every run. */
export function tokenSource(seed: number, { vocabulary } = SMOLLM2_135M): (count: number) => number[] {
  const next = xorshift(seed);
  const first = SPECIAL_TOKENS.length;
  return (count) => Array.from({ length: count }, () => first + (next() % (vocabulary - first)));
}

/** Prepares a task for an engine: long conversations are taken in here, outside of the measurement. */
export async function prepareTask(name: TaskName, engine: Engine, sizes: TaskSizes): Promise<Task> {
  const ids = tokenSource(20260726);
  const { decodeTokens } = sizes;
  switch (name) {
    case "prefill":
      return {
        async run() {
          const [answer] = await engine.generate([ids(sizes.prefillTokens)], 1);
          return prefillRate(answer as NonNullable<typeof answer>, sizes.prefillTokens);
        },
      };
    case "decode":
      return { run: async () => decodeRate(await engine.generate([ids(sizes.cachedTokens)], decodeTokens + 1)) };
    case "batch": {
      // Early sessions run on while late ones still read their prompts, so everyone decodes twice as long.
      const prompts = (): TokenIds[] => sessionLengths(sizes).map((length) => ids(length));
      return { run: async () => decodeRate(await engine.generate(prompts(), 2 * decodeTokens)) };
    }
    case "conversation": {
      const conversation: Conversation = await engine.converse(ids(sizes.conversationTokens));
      process.stderr.write(`${engine.name} holds ${conversation.slots} slots.\n`);
      return { run: async () => decodeRate([await conversation.answer(ids(1), decodeTokens + 1)]) };
    }
  }
}
