/** @file One conversation, profile or stream inside the engine's worker: a cache row and the method that tends it. */
import { KvRow } from "../cache/kv-row.js";
import { tokenOrigins, type SlotOrigin } from "../cache/slot-origin.js";
import type { DecoderRunner, ForwardResult } from "../runtime/decoder-runner.js";
import type { LoadedAdapter } from "../runtime/loaded-adapter.js";
import type { SequenceInput } from "../runtime/sequence-input.js";
import type { Span } from "../sentinel/sentinel-tokens.js";
import { TokenWords } from "../text/token-words.js";
import { statsOf, type MemoryStats } from "./memory-stats.js";
import type { FeedPurpose, MemoryBehavior, MemoryMethod, OptionValues } from "./method.js";
import { checkAdapters } from "./session-adapters.js";
import { ensurePositions } from "./slot-positions.js";
import type { SpanAsker } from "./spans/caller-spans.js";
import { withinTree, type TokenTree } from "./token-tree.js";

/** Everything of a session that is not the model's. */
export interface SessionState {
  row: KvRow;
  position: number;
  tokensSeen: number;
  steps: number;
  openStart: number;
  openIds: number[];
  openPurpose: FeedPurpose;
  /** Default: what the row holds. */
  peakSlots?: number;
}

/** What a session may be given beside its method. */
export interface SessionExtras {
  words?: TokenWords;
  spanAdapter?: LoadedAdapter | undefined;
  spanAsker?: SpanAsker | undefined;
}

/** How tokens are fed. */
export interface FeedOptions {
  purpose: FeedPurpose;
  /** Which logits to hand to `onLogits`. */
  logits: "none" | "last" | "all";
  /** Ranges of the tokens that are marked as spans, for methods that read marks. */
  marks?: readonly Span[];
  /** Gets the logits of each run: [tokens, vocab] for tokens from `start` on. */
  onLogits?: (logits: Float32Array, start: number) => void;
  /** Inner tensors to hand to `onTaps`. */
  taps?: readonly string[];
  /** Gets the taps of each run, while the row is still as the run saw it; the run's first token is number `start`. */
  onTaps?: (taps: ForwardResult["taps"], start: number) => void;
  /** Called before each run; throws to stop. */
  check?: () => void;
  /** Called after each run with the number of tokens fed. */
  onProgress?: (done: number, total: number) => void;
}

/** Most tokens of one run; longer inputs are fed in pieces, so that a run can be cancelled between them. */
export const PREFILL_CHUNK = 512;

/** A memory at work. Methods act on it; users reach it through the handles in `memory.ts`. */
export class MemorySession {
  readonly runner: DecoderRunner;
  readonly method: MemoryMethod;
  readonly options: OptionValues;
  readonly adapter: LoadedAdapter | undefined;
  /** The sentinel adapter of a method that compresses spans beside something else. */
  readonly spanAdapter: LoadedAdapter | undefined;
  /** Where words begin and sentences end, for methods that go by them. */
  readonly words: TokenWords;
  /** Asks a caller's function for spans, where the memory was given one. */
  spanAsker: SpanAsker | undefined;
  readonly behavior: MemoryBehavior;
  readonly row: KvRow;
  /** Position of the next text token. */
  position = 0;
  tokensSeen = 0;
  steps = 0;
  /** First slot of the step that is still open. */
  openStart = 0;
  /** Tokens of the step that is still open. */
  openIds: number[] = [];
  /** Whether any open token was fed as input rather than as context. */
  openPurpose: FeedPurpose = "context";
  /** Most KV positions that a run has needed at once, its own tokens included. */
  peakSlots: number;

  constructor(
    runner: DecoderRunner,
    method: MemoryMethod,
    options: OptionValues,
    adapter: LoadedAdapter | undefined,
    restored?: SessionState & { methodState: Record<string, unknown> },
    { words = new TokenWords(), spanAdapter, spanAsker }: SessionExtras = {},
  ) {
    this.runner = runner;
    this.method = method;
    this.options = options;
    this.adapter = adapter;
    this.words = words;
    this.spanAdapter = spanAdapter;
    this.spanAsker = spanAsker;
    this.behavior = method.create(options, restored?.methodState);
    checkAdapters(method, this.behavior, this);
    this.row = restored?.row ?? new KvRow(runner.shape);
    this.peakSlots = restored?.peakSlots ?? this.row.length;
    if (restored !== undefined) {
      this.position = restored.position;
      this.tokensSeen = restored.tokensSeen;
      this.steps = restored.steps;
      this.openStart = restored.openStart;
      this.openIds = [...restored.openIds];
      this.openPurpose = restored.openPurpose;
    }
  }

  /** Takes in one time step and lets the method turn it into memory. */
  async append(ids: readonly number[], feed: Partial<FeedOptions> = {}): Promise<void> {
    if (this.openIds.length > 0) await this.closeStep();
    if (this.behavior.defersContext === true) {
      this.openIds.push(...ids);
      this.tokensSeen += ids.length;
    } else {
      await this.feed(ids, { purpose: "context", logits: "none", ...feed });
    }
    await this.closeStep();
  }

  /** Runs tokens through the model and into the open step, in pieces as long as the method allows. */
  async feed(ids: readonly number[], options: FeedOptions): Promise<void> {
    // Before any work, as there may be minutes of it.
    ensurePositions(this, ids.length);
    const { marks = [], taps = [] } = options;
    this.behavior.checkMarks?.(this, ids, marks);
    for (let start = 0; start < ids.length;) {
      options.check?.();
      const waiting = ids.slice(start, start + PREFILL_CHUNK);
      const ready = await this.beforeRun(waiting, marksFrom(marks, start));
      const length = Math.min(this.behavior.runLength?.(this) ?? Infinity, ready, waiting.length);
      const piece = ids.slice(start, start + length);
      const last = start + length === ids.length;
      const logits = options.logits === "last" && !last ? "none" : options.logits;
      const input = this.nextInput(piece, options.purpose);
      const result = await this.runner.forward([input], { logits, adapter: this.textAdapter, taps });
      options.onTaps?.(result.taps, start);
      await this.commit(input, result, 0, options.purpose);
      options.onProgress?.(start + length, ids.length);
      if (logits !== "none") options.onLogits?.(result.logits, logits === "last" ? ids.length - 1 : start);
      start += length;
    }
    if (marks.length > 0) await this.beforeRun([], marksFrom(marks, ids.length));
    // Whoever cancelled during the last run expects nothing to have happened.
    options.check?.();
  }

  /** Lets the method act before tokens are read. @returns how many of them the next run may take */
  async beforeRun(waiting: readonly number[], marks: readonly Span[] = []): Promise<number> {
    if (this.behavior.beforeRun === undefined) return waiting.length;
    const ready = await this.behavior.beforeRun(this, waiting, marks);
    this.openStart = Math.min(this.openStart, this.row.length);
    return ready;
  }

  /**
   * The next tokens as an input to a forward pass; {@link MemorySession.commit} takes its result, unless they are a tree.
   */
  nextInput(ids: readonly number[], purpose: FeedPurpose, tree?: TokenTree): SequenceInput {
    const offsets = tree?.offsets ?? ids.map((_, index) => index);
    ensurePositions(this, 1 + Math.max(...offsets));
    const positions = offsets.map((offset) => this.position + offset);
    const visible = this.behavior.visible?.(this, purpose, positions);
    const everywhere = this.textAdapter !== undefined && !this.textAdapter.gated;
    return {
      past: this.row,
      ids,
      positions,
      gate: everywhere ? ids.map(() => 1) : undefined,
      visible: tree === undefined ? visible : withinTree(tree, this.row.length, visible),
    };
  }

  /** KV positions that a run of `count` more tokens needs at once. */
  demand(count: number): number {
    return Math.min(this.behavior.span ?? Infinity, this.row.length + count);
  }

  /** Adds what a forward pass made of {@link MemorySession.nextInput} to the cache. */
  async commit(input: SequenceInput, result: ForwardResult, batchIndex: number, purpose: FeedPurpose): Promise<void> {
    this.peakSlots = Math.max(this.peakSlots, this.demand(input.ids.length));
    const origins = tokenOrigins(this.steps + 1, this.tokensSeen, input.ids.length);
    this.row.append(result, batchIndex, 0, input.positions, "text", origins);
    this.position += input.ids.length;
    this.tokensSeen += input.ids.length;
    this.openIds.push(...input.ids);
    if (purpose === "input") this.openPurpose = "input";
    await this.behavior.afterRun?.(this, input.ids);
    // A method that drops slots may have cut into the open step.
    this.openStart = Math.min(this.openStart, this.row.length);
  }

  /** The open step with all of its tokens, as the origin of what is made of it. */
  get openOrigin(): SlotOrigin {
    const step = this.steps + 1;
    const endToken = this.tokensSeen;
    return { firstStep: step, lastStep: step, firstToken: endToken - this.openIds.length, endToken };
  }

  /** The adapter in runs of text and of sentinels. */
  get textAdapter(): LoadedAdapter | undefined {
    return this.spanAdapter ?? this.adapter;
  }

  /** Number of COMP tokens of one compression. */
  get compTokens(): number {
    return this.adapter?.compTokens ?? 0;
  }

  /** Ends the open step. */
  async closeStep(): Promise<void> {
    await this.behavior.closeStep?.(this);
    this.steps += 1;
    this.openIds = [];
    this.openPurpose = "context";
    this.openStart = this.row.length;
    this.row.settle();
  }

  /** Remembers the present state of an append-only session; the returned function goes back to it. */
  checkpoint(): () => void {
    const { position, tokensSeen, steps, openStart, openIds, openPurpose, peakSlots } = this;
    const { length } = this.row;
    const ids = [...openIds];
    return () => {
      this.row.truncate(length);
      Object.assign(this, { position, tokensSeen, steps, openStart, openIds: ids, openPurpose, peakSlots });
    };
  }

  /** An independent copy. */
  fork(): MemorySession {
    const state = { ...this, row: this.row.clone(), methodState: structuredClone(this.behavior.state) };
    const { words, spanAdapter, spanAsker } = this;
    const extras = { words, spanAdapter, spanAsker };
    return new MemorySession(this.runner, this.method, this.options, this.adapter, state, extras);
  }

  /** What the memory holds and saves. */
  stats(): MemoryStats {
    return statsOf(this);
  }
}

/** Marks as ranges of the tokens from `start` on. */
function marksFrom(marks: readonly Span[], start: number): Span[] {
  return marks.map((mark) => ({ start: mark.start - start, end: mark.end - start }));
}
