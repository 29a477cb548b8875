/**
 * @file Inputs of several memories read in one pass. A pass reads all weights once, so short inputs that wait at the same
 * time cost less together; but padding is computed too, and rows of memory must be copied side by side.
 */
import { setImmediate as nextTick } from "node:timers/promises";
import type { DecoderConfig } from "../models/config.js";
import { projectionSize } from "../models/projections.js";
import type { ForwardResult } from "./decoder-runner.js";
import type { EngineTurns } from "./engine-turns.js";
import type { LoadedAdapter } from "./loaded-adapter.js";
import type { Picks, SequenceInput } from "./sequence-input.js";

/** An input to read. */
export interface Read {
  input: SequenceInput;
  /** Which of its tokens get logits. */
  logits: Picks;
  /** The adapter, if it acts on any of the tokens. */
  adapter: LoadedAdapter | undefined;
}

interface Waiting extends Read {
  resolve: (result: ForwardResult) => void;
  reject: (error: unknown) => void;
}

/** One pass over several reads with the same adapter. @returns a result for each, in their order */
export type ReadPass = (reads: readonly Read[]) => Promise<ForwardResult[]>;

/** What sharing a pass saves and costs. The unit of all gains is what it takes to read the weights once. */
export interface PassCosts {
  /** Cached slots that can be copied meanwhile. */
  slots: number;
  /** Tokens that can be computed meanwhile. */
  tokens: number;
}

/** Most tokens of a shared pass, padding included: decoding steps wait for a pass, and more would hardly be faster. */
const MOST_TOKENS = 256;

/** Most cached slots of a shared pass, empty ones included; they are held twice while it runs. */
const MOST_SLOTS = 2048;

/** A further input must save at least this much, so that close calls stay alone. */
const LEAST_GAIN = 0.2;

/** Weights that are read while one number of a cached slot is copied and read again; measured, as the next one. */
const WEIGHTS_PER_COPIED = 16;

/** Tokens that two cores compute while the weights are read once; more cores compute more, and lose nothing by this. */
const TOKENS_PER_PASS = 12;

/** The costs of a model, from its shape. */
export function passCosts(config: DecoderConfig): PassCosts {
  const matrices = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"];
  const weights = matrices.reduce((sum, target) => {
    const [inFeatures, outFeatures] = projectionSize(config, target);
    return sum + inFeatures * outFeatures;
  }, 0);
  const slot = 2 * config.kvHeads * config.headDim;
  return { slots: weights / slot / WEIGHTS_PER_COPIED, tokens: TOKENS_PER_PASS };
}

/**
 * Which of the inputs that wait are read with the first one, in the order in which they came: those that save time. So
 * nobody is passed over for long, as whoever has waited longest is always the first one of a pass.
 */
export function chooseGroup<Input extends Read>(waiting: Iterable<Input>, costs: PassCosts): Input[] {
  const group: Input[] = [];
  let gain = 0;
  for (const read of waiting) {
    if (group.length > 0 && group[0]?.adapter !== read.adapter) continue;
    const wider = [...group, read];
    const widerGain = group.length === 0 ? 0 : gainOf(wider, costs);
    if (group.length > 0 && widerGain < gain + LEAST_GAIN) continue;
    group.push(read);
    gain = widerGain;
  }
  return group;
}

/** What one pass saves against a pass each. */
function gainOf(reads: readonly Read[], costs: PassCosts): number {
  const count = reads.length;
  const lengths = reads.map(({ input }) => input.ids.length);
  const longest = Math.max(...lengths);
  const slots = count * Math.max(...reads.map(({ input }) => input.past.length));
  if (count * longest > MOST_TOKENS || slots > MOST_SLOTS) return -Infinity;
  const padding = count * longest - lengths.reduce((sum, length) => sum + length, 0);
  return count - 1 - slots / costs.slots - padding / costs.tokens;
}

/** Reads inputs, several in one pass where that pays; each comes out as if it had been read alone. */
export class SharedReads {
  readonly #turns: EngineTurns;
  readonly #pass: ReadPass;
  readonly #costs: PassCosts;
  /** In the order of asking. */
  readonly #waiting = new Set<Waiting>();

  constructor(turns: EngineTurns, pass: ReadPass, costs: PassCosts) {
    this.#turns = turns;
    this.#pass = pass;
    this.#costs = costs;
  }

  /** Reads an input when it is its turn, or along with one before it. Fails only for what is wrong with this input. */
  read(read: Read): Promise<ForwardResult> {
    return new Promise((resolve, reject) => {
      const waiting = { ...read, resolve, reject };
      this.#waiting.add(waiting);
      void this.#turns.take("read", () => this.#take(waiting));
    });
  }

  async #take(first: Waiting): Promise<void> {
    if (!this.#waiting.has(first)) return;
    // Requests that have arrived at the worker together are all seen first.
    await nextTick();
    const group = chooseGroup([first, ...[...this.#waiting].filter((other) => other !== first)], this.#costs);
    for (const waiting of group) this.#waiting.delete(waiting);
    await this.#run(group);
  }

  async #run(group: readonly Waiting[]): Promise<void> {
    try {
      const results = await this.#pass(group);
      for (const [index, { resolve }] of group.entries()) resolve(results[index] as ForwardResult);
    } catch (error) {
      if (group.length === 1) return group[0]?.reject(error);
      // Somebody's input is at fault, or there is too much of it; nobody else shall fail for that.
      for (const waiting of group) await this.#run([waiting]);
    }
  }
}
