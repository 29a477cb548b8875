/**
 * @file What a parallel pass over a stream must let each token see, found by keeping the lists that the memory method's
 * options speak of, token by token. Slow, and written without looking at `src`.
 */

/** Options of the method, and the number of COMP tokens. */
export interface StreamOracleOptions {
  window: number;
  compress: number;
  memory: number;
  sink: number;
  release: "once" | "gradual";
  compTokens: number;
}

/** One token of the pass. */
export interface StreamOracleToken {
  /** Index in the text, or undefined for a COMP token. */
  text: number | undefined;
  /** Which COMP token it is. */
  comp: number | undefined;
  position: number;
  /** Tokens of the pass that it attends to. */
  sees: ReadonlySet<number>;
  /** Whether there is a compressed slot among them. */
  remembers: boolean;
}

/** The tokens of a pass over a text of this length. */
export function streamTokens(length: number, options: StreamOracleOptions): StreamOracleToken[] {
  const { window, compress, memory: limit, sink, release, compTokens } = options;
  const tokens: StreamOracleToken[] = [];
  const sinks: number[] = [];
  const memory: number[] = [];
  const recent: number[] = [];
  // How many of the oldest recent tokens are in the memory as well.
  let stale = 0;
  for (let text = 0; text < length; text++) {
    const own = tokens.length;
    const sees = new Set([...sinks, ...memory, ...recent, own]);
    tokens.push({ text, comp: undefined, position: text, sees, remembers: memory.length > 0 });
    (text < sink ? sinks : recent).push(own);
    // The memory of the whole text is never read.
    const tooLong = (): boolean => sinks.length + memory.length + recent.length > window;
    const leave = (): void => {
      for (; tooLong() && stale > 0; stale--) recent.shift();
    };
    if (text === length - 1) continue;
    leave();
    if (!tooLong()) continue;
    const oldest = recent.slice(0, compress);
    const end = tokens[oldest.at(-1)!].position + 1;
    const fresh: number[] = [];
    for (let comp = 0; comp < compTokens; comp++) {
      fresh.push(tokens.length);
      const read = new Set([...sinks, ...memory, ...oldest, ...fresh]);
      tokens.push({ text: undefined, comp, position: end + comp, sees: read, remembers: memory.length > 0 });
    }
    memory.push(...fresh);
    // The newest are kept even where there is no room for all of them.
    while (memory.length > Math.max(limit, compTokens)) memory.shift();
    stale = oldest.length;
    if (release === "gradual") leave();
    else for (; stale > 0; stale--) recent.shift();
  }
  return tokens;
}
