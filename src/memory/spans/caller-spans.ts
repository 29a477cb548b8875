/** @file A caller's function that chooses spans: it stays on the caller's thread, and the engine asks it through a port. */
import { MessageChannel, type MessagePort } from "node:worker_threads";
import { PrecisError, type SerializedError } from "../../errors.js";
import type { Span } from "../../sentinel/sentinel-tokens.js";
import type { TokenWords } from "../../text/token-words.js";

/** A token as a caller's function sees it. */
export interface SpanToken {
  id: number;
  /** What the token adds to the text; undefined where the tokenizer cannot tell for a single token. */
  text: string | undefined;
  startsWord: boolean;
  /** Whether it is a control token of the model; those are better left outside spans. */
  special: boolean;
}

/** What a caller's function is asked. */
export interface SpanQuestion {
  /**
   * Text that is neither compressed nor kept for good yet, the oldest first: what was read and what will be read next.
   * While answering, that is one more token each time.
   */
  tokens: readonly SpanToken[];
  /** How many of `tokens` were read. */
  read: number;
}

/**
 * Chooses spans as ranges of `tokens`, in order and apart. Tokens up to the end of a span are decided with it: those
 * between spans stay for good. Undecided tokens come again with the next question, the latest 1024 of them.
 */
export type ChooseSpans = (question: SpanQuestion) => readonly Span[] | Promise<readonly Span[]>;

/** Undecided tokens that are asked about again; older ones stay for good. */
export const MOST_UNDECIDED = 1024;

type Answer = { id: number } & ({ spans: readonly Span[] } | { error: SerializedError });

/** Describes tokens for a question. */
export function describeTokens(words: TokenWords, ids: readonly number[]): SpanToken[] {
  return ids.map((id, index) => ({
    id,
    text: words.textOf(id),
    startsWord: words.startsWord(id, ids[index - 1]),
    special: words.isSpecial(id),
  }));
}

function unfit(value: unknown): PrecisError {
  return new PrecisError("INPUT_INVALID", "The caller's function chose spans that are no ranges in order and apart.", {
    value,
    nextStep: "Return [{ start, end }, …] with start < end, ends within the tokens, and no overlap.",
  });
}

/** @throws INPUT_INVALID unless the spans are ranges of `count` tokens, in order and apart */
function checkedSpans(spans: unknown, count: number): Span[] {
  if (!Array.isArray(spans)) throw unfit(spans);
  let from = 0;
  return spans.map((span: Partial<Span> | null): Span => {
    const { start = -1, end = -1 } = span ?? {};
    if (!Number.isInteger(start) || !Number.isInteger(end) || start < from || end <= start || end > count) {
      throw unfit(span);
    }
    from = end;
    return { start, end };
  });
}

/** The caller's side: answers what comes through {@link SpanAnswerer.port}. */
export class SpanAnswerer {
  /** To be handed to the engine. */
  readonly port: MessagePort;
  readonly choose: ChooseSpans;
  readonly #own: MessagePort;

  constructor(choose: ChooseSpans) {
    const { port1, port2 } = new MessageChannel();
    this.choose = choose;
    this.#own = port1;
    this.port = port2;
    port1.on("message", (message: { id: number; question: SpanQuestion }) => void this.#receive(message));
    // The calls in progress keep the process alive, not this.
    port1.unref();
  }

  close(): void {
    this.#own.close();
  }

  async #receive({ id, question }: { id: number; question: SpanQuestion }): Promise<void> {
    try {
      const spans = await this.choose(question);
      this.#answer({ id, spans: checkedSpans(spans, question.tokens.length) });
    } catch (error) {
      const known = PrecisError.from(error, "INPUT_INVALID", "The caller's function that chooses spans failed");
      this.#answer({ id, error: known.toJSON() });
    }
  }

  #answer(answer: Answer): void {
    this.#own.postMessage(answer);
  }
}

/** The engine's side: asks through a port. */
export class SpanAsker {
  readonly #port: MessagePort;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #nextId = 1;

  constructor(port: MessagePort) {
    this.#port = port;
    port.on("message", (answer: Answer) => this.#settle(answer));
    port.on("close", () => this.#giveUp(new PrecisError("DISPOSED", "The function that chooses spans is gone.")));
  }

  /** @throws what the caller's function threw; INPUT_INVALID for spans that make no sense; ABORTED */
  async ask(question: SpanQuestion): Promise<readonly Span[]> {
    const id = this.#nextId++;
    const answer = await new Promise<Answer>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#port.postMessage({ id, question });
    });
    if ("error" in answer) throw PrecisError.fromJSON(answer.error);
    return answer.spans;
  }

  /** Stops waiting for answers, so that work can be cancelled although the function takes long. */
  cancel(): void {
    this.#giveUp(new PrecisError("ABORTED", "The work was cancelled."));
  }

  close(): void {
    this.#port.close();
  }

  #giveUp(error: PrecisError): void {
    for (const id of this.#waiting.keys()) this.#settle({ id, error: error.toJSON() });
  }

  #settle(answer: Answer): void {
    const resolve = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    resolve?.(answer);
  }
}
