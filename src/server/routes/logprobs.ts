/** @file Log-probabilities of tokens, with the texts of the tokens. */
import type { GenerationEvent, LanguageModel } from "../../index.js";

/** One token as OpenAI's chat answers show it. */
export interface TokenLogprobView {
  token: string;
  logprob: number;
  /** UTF-8 of the token; null where it is part of a character. */
  bytes: number[] | null;
  top_logprobs: Omit<TokenLogprobView, "top_logprobs">[];
}

/** Shows log-probabilities of one model; remembers the texts of tokens. */
export class LogprobViewer {
  readonly #model: LanguageModel;
  readonly #texts = new Map<number, string>();

  constructor(model: LanguageModel) {
    this.#model = model;
  }

  /** The token of an event; undefined for one without. */
  async view(event: Extract<GenerationEvent, { type: "text-delta" }>): Promise<TokenLogprobView | undefined> {
    if (event.tokenId === undefined || event.logprob === undefined) return undefined;
    const top = event.topLogprobs ?? [];
    return {
      ...(await this.#token(event.tokenId, event.logprob)),
      top_logprobs: await Promise.all(top.map(({ id, logprob }) => this.#token(id, logprob))),
    };
  }

  async #token(id: number, logprob: number): Promise<Omit<TokenLogprobView, "top_logprobs">> {
    let token = this.#texts.get(id);
    if (token === undefined) {
      token = await this.#model.detokenize([id]);
      this.#texts.set(id, token);
    }
    // JSON has no -Infinity.
    const finite = Math.max(logprob, -9999);
    return { token, logprob: finite, bytes: token.includes("\uFFFD") ? null : [...new TextEncoder().encode(token)] };
  }
}
