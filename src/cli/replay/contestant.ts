/** @file One memory in the comparison of `precis replay`. */
import { PrecisError } from "../../errors.js";
import type { Memory } from "../../memory/memory.js";
import type { MemoryStats } from "../../memory/memory-stats.js";
import { logProbability } from "../../runtime/sampler.js";
import type { ChatMessage } from "../../text/chat-template.js";
import type { AnswerTokens } from "./conversation.js";

/** Negative log-likelihood in nats, summed over some tokens. */
export interface Score {
  nll: number;
  tokens: number;
}

/** Perplexity of everything in `scores` together; undefined for nothing. */
export function perplexityOf(scores: readonly Score[]): number | undefined {
  const tokens = scores.reduce((sum, score) => sum + score.tokens, 0);
  const nll = scores.reduce((sum, score) => sum + score.nll, 0);
  return tokens === 0 ? undefined : Math.exp(nll / tokens);
}

function isOverflow(error: unknown): boolean {
  return error instanceof PrecisError && error.code === "CONTEXT_OVERFLOW";
}

/** A memory, the conversation it has taken in, and how well it foresaw the answers. */
export class Contestant {
  readonly label: string;
  readonly memory: Memory;
  /** One per answer, until the context limit. */
  readonly scores: Score[] = [];
  stats: MemoryStats;
  /** The most that the memory has held at once, after a turn. */
  peakBytes = 0;
  /** The turn, from 1 on, that the model's context had no more room for. */
  overflowTurn: number | undefined;

  private constructor(label: string, memory: Memory, stats: MemoryStats) {
    this.label = label;
    this.memory = memory;
    this.stats = stats;
  }

  static async create(label: string, memory: Memory): Promise<Contestant> {
    return new Contestant(label, memory, await memory.stats());
  }

  /**
   * Scores an answer if there is one, with its question in full before it, then takes the messages in. `turn` counts
   * messages from 1.
   */
  async takeTurn(
    { turn, messages, answer }: { turn: number; messages: readonly ChatMessage[]; answer: AnswerTokens | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    if (this.overflowTurn !== undefined) return;
    try {
      const score = answer === undefined ? undefined : await this.#score(answer, signal);
      this.stats = await this.memory.append(messages, { signal });
      this.peakBytes = Math.max(this.peakBytes, this.stats.bytes);
      if (score !== undefined) this.scores.push(score);
    } catch (error) {
      if (!isOverflow(error)) throw error;
      this.overflowTurn = turn;
    }
  }

  /** The start of an answer to `question`; undefined beyond the context limit. Changes nothing. */
  async answer(question: string, maxTokens: number, signal: AbortSignal): Promise<string | undefined> {
    if (this.overflowTurn !== undefined) return undefined;
    const options = { maxTokens, temperature: 0, remember: false, signal };
    try {
      const { text, reason } = await this.memory.answer([{ role: "user", content: question }], options);
      return reason === "length" ? `${text} …` : text;
    } catch (error) {
      if (isOverflow(error)) return undefined;
      throw error;
    }
  }

  async #score({ ids, scoredFrom }: AnswerTokens, signal: AbortSignal): Promise<Score> {
    const { logits, vocabSize } = await this.memory.forward(ids, { signal });
    let nll = 0;
    for (let next = scoredFrom; next < ids.length; next++) {
      const row = logits.subarray((next - 1) * vocabSize, next * vocabSize);
      nll -= logProbability(row, ids[next] as number);
    }
    return { nll, tokens: ids.length - scoredFrom };
  }
}
