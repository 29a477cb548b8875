/** @file Ends generated text at stop strings that may span any number of pieces. */

import { PrecisError } from "../errors.js";

/** What a {@link StopMatcher} made of a piece of text. */
export interface StopResult {
  /** Text that surely comes before any stop string. */
  emit: string;
  /** The stop string that ended the text, if one did. */
  stopped?: string;
}

/**
 * Passes text on until a stop string, never emitting any part of that string. The stop that completes first wins, the
 * longest of those that complete together; how the text is cut into pieces makes no difference.
 * @example
 * const matcher = new StopMatcher(["\nUser:"]);
 * matcher.push("Fine.\nUs"); // { emit: "Fine." }: the rest may become a stop string
 * matcher.push("er: so"); // { emit: "", stopped: "\nUser:" }
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = "";
  #stopped: string | undefined;

  /** Throws OPTION_INVALID for an empty stop string. */
  constructor(stops: readonly string[]) {
    for (const stop of stops) {
      if (typeof stop === "string" && stop !== "") continue;
      throw new PrecisError("OPTION_INVALID", `A stop string must not be empty, got ${JSON.stringify(stop)}.`, {
        value: stop,
        nextStep: "Leave it out of the list.",
      });
    }
    this.#stops = [...stops].sort((a, b) => b.length - a.length);
    this.#longest = this.#stops[0]?.length ?? 0;
  }

  /** Add text. After a stop every further call returns `{ emit: "", stopped }`. */
  push(text: string): StopResult {
    if (this.#stopped !== undefined) return { emit: "", stopped: this.#stopped };
    const seen = this.#held + text;
    const match = this.#firstMatch(seen);
    if (match !== undefined) {
      this.#stopped = match.stop;
      this.#held = "";
      return { emit: seen.slice(0, match.at), stopped: match.stop };
    }
    const kept = this.#possibleStart(seen);
    this.#held = seen.slice(seen.length - kept);
    return { emit: seen.slice(0, seen.length - kept) };
  }

  /** End the text: returns what was held back, `""` after a stop. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  #firstMatch(text: string): { stop: string; at: number } | undefined {
    let best: { stop: string; at: number; end: number } | undefined;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      const end = at + stop.length;
      // Stops are tried longest first, so of two that end together the longer is kept.
      if (at !== -1 && (best === undefined || end < best.end)) best = { stop, at, end };
    }
    return best;
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #possibleStart(text: string): number {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.#stops.some((stop) => stop.startsWith(end))) return length;
    }
    return 0;
  }
}
