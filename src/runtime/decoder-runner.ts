/** @file Runs a decoder over batches of sequences with cached pasts. Knows tokens, positions and rows, but no method. */
import { PrecisError } from "../errors.js";
import type { KvShape } from "../cache/kv-store.js";
import type { NewRows } from "../cache/kv-row.js";
import type { GraphBuilder } from "../graph/builder.js";
import type { DecoderConfig } from "../models/config.js";
import { buildDecoder } from "../models/decoder-graph.js";
import { DECODER_IO, type LoraTarget } from "../models/decoder-io.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import { decoderFeeds } from "./decoder-feeds.js";
import type { LoadedAdapter } from "./loaded-adapter.js";
import type { Device } from "./device.js";
import type { EmbeddingTable } from "./embedding-table.js";
import { EngineSession, type EngineOptions } from "./engine-session.js";
import { EngineTurns, type RunKind } from "./engine-turns.js";
import { actingAdapter, pickedTokens, type Picks, type SequenceInput } from "./sequence-input.js";
import { passCosts, SharedReads, type Read } from "./shared-reads.js";

/** What a run should compute besides the new rows. */
export interface ForwardOptions {
  /** Which tokens get logits: the same of each sequence, or a choice for each. */
  logits: "none" | "last" | "all" | readonly Picks[];
  adapter?: LoadedAdapter | undefined;
  /** Inner tensors to return; each set of taps has a session of its own. */
  taps?: readonly string[];
  /** [batch, seq, seq] weights that replace keys and values by averages (training form of merging). */
  averaging?: Float32Array;
  /** Default `"read"`; see {@link EngineTurns}. */
  kind?: RunKind;
}

/** What a run returns. */
export interface ForwardResult extends NewRows {
  /** [picked, vocab]: the tokens asked for, sequence by sequence. */
  logits: Float32Array;
  /** Taps by name, with their shapes. */
  taps: Record<string, { data: Float32Array; dims: readonly number[] }>;
}

/** What a runner is made of. */
export interface RunnerParts {
  config: DecoderConfig;
  /** Makes the weights of one graph. */
  weights: () => DecoderWeights;
  /** Makes the weights of a graph for many rows, where they have a form of their own. */
  prefillWeights?: (() => DecoderWeights) | undefined;
  embeddings: EmbeddingTable;
  engine: EngineOptions;
  /** Names a weight that is not a finite number, once outputs came out as NaN. */
  findBadWeight: () => Promise<string | undefined>;
}

/** Rows from which on a run uses the weights for many rows, if there are any. */
const PREFILL_ROWS = 32;

/** A model ready to run. Not safe for concurrent use of one row; runs themselves are atomic. */
export class DecoderRunner implements AsyncDisposable {
  readonly config: DecoderConfig;
  readonly shape: KvShape;
  readonly #parts: RunnerParts;
  readonly #sessions = new Map<string, Promise<EngineSession>>();
  readonly #turns = new EngineTurns();
  readonly #reads: SharedReads;
  #loraTargets: readonly LoraTarget[] = [];

  constructor(parts: RunnerParts) {
    this.config = parts.config;
    this.#parts = parts;
    this.shape = { layers: parts.config.layerCount, kvHeads: parts.config.kvHeads, headDim: parts.config.headDim };
    this.#reads = new SharedReads(this.#turns, (reads) => this.#readTogether(reads), passCosts(parts.config));
  }

  /** Starts the engine ahead of the first run; returns the device it runs on. */
  async start(): Promise<EngineSession["device"]> {
    if (this.#parts.prefillWeights !== undefined) await this.#session([], false, true);
    return (await this.#session([], false, false)).device;
  }

  /** Makes sure that the graph has inputs for these projections; rebuilds it if not. */
  async enableLora(targets: readonly LoraTarget[]): Promise<void> {
    const missing = targets.filter((target) => !this.#loraTargets.includes(target));
    if (missing.length === 0) return;
    this.#loraTargets = [...this.#loraTargets, ...missing].sort();
    await this.#disposeSessions();
  }

  /**
   * One forward pass over a batch of sequences of any lengths, when it is its turn. The caches keep their contents. A lone
   * sequence to read may share its pass with others that wait.
   */
  forward(batch: readonly SequenceInput[], options: ForwardOptions): Promise<ForwardResult> {
    const { kind = "read", logits, taps = [], averaging } = options;
    const [input] = batch;
    if (input === undefined || batch.length > 1 || kind !== "read" || taps.length > 0 || averaging !== undefined) {
      return this.#turns.take(kind, () => this.#forward(batch, options));
    }
    const picks = typeof logits === "string" ? logits : (logits[0] as Picks);
    return this.#reads.read({ input, logits: picks, adapter: actingAdapter(input, options.adapter, this.config) });
  }

  /** One pass over reads with the same adapter. */
  async #readTogether(reads: readonly Read[]): Promise<ForwardResult[]> {
    const adapter = reads[0]?.adapter;
    const batch = reads.map(({ input }) => input);
    const { seq, logits, keys, values } = await this.#forward(batch, {
      logits: reads.map(({ logits: picks }) => picks),
      adapter,
    });
    const width = seq * this.shape.kvHeads * this.shape.headDim;
    const { vocabSize } = this.config;
    let picked = 0;
    return reads.map(({ input, logits: picks }, index) => {
      const own = (data: Float32Array): Float32Array => data.subarray(index * width, (index + 1) * width);
      const from = picked * vocabSize;
      picked += pickedTokens(input, picks).length;
      return {
        logits: logits.subarray(from, picked * vocabSize),
        seq,
        keys: keys.map(own),
        values: values.map(own),
        taps: {},
      };
    });
  }

  async #forward(batch: readonly SequenceInput[], options: ForwardOptions): Promise<ForwardResult> {
    const seq = Math.max(...batch.map((input) => input.ids.length));
    if (batch.length === 0 || batch.some((input) => input.ids.length === 0)) {
      throw new PrecisError("INPUT_INVALID", "A forward pass needs at least one token per sequence.");
    }
    // Another adapter may change the targets while the session starts.
    const loraTargets = this.#loraTargets;
    const prefill = this.#parts.prefillWeights !== undefined && batch.length * seq >= PREFILL_ROWS;
    const session = await this.#session(options.taps ?? [], options.averaging !== undefined, prefill);
    const picks = typeof options.logits === "string" ? batch.map(() => options.logits as Picks) : options.logits;
    const { adapter, averaging } = options;
    const { config, embeddings } = this.#parts;
    const parts = { config, shape: this.shape, embeddings };
    const feeds = decoderFeeds(parts, { batch, seq, picks, adapter, loraTargets, averaging });
    const layers = Array.from({ length: this.config.layerCount }, (_, layer) => layer);
    const fetches = [
      DECODER_IO.logits,
      ...layers.flatMap((layer) => [DECODER_IO.newKeys(layer), DECODER_IO.newValues(layer)]),
      ...(options.taps ?? []),
    ];
    const outputs = await session.run(feeds, fetches);
    const data = (name: string): Float32Array => outputs[name]?.data as Float32Array;
    const logits = data(DECODER_IO.logits);
    // Rows show what ails the layers even where no logits were asked for, and the cache must not take it in.
    const newest = data(DECODER_IO.newKeys(this.config.layerCount - 1));
    if (hasNaN(logits) || hasNaN(newest)) await this.#refuseNaN();
    return {
      logits,
      seq,
      keys: layers.map((layer) => data(DECODER_IO.newKeys(layer))),
      values: layers.map((layer) => data(DECODER_IO.newValues(layer))),
      taps: Object.fromEntries(
        (options.taps ?? []).map((tap) => [tap, { data: data(tap), dims: outputs[tap]?.dims ?? [] }]),
      ),
    };
  }

  async dispose(): Promise<void> {
    await this.#disposeSessions();
    this.#parts.embeddings[Symbol.dispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #session(taps: readonly string[], averaging: boolean, prefill: boolean): Promise<EngineSession> {
    const key = JSON.stringify([taps, averaging, prefill]);
    let session = this.#sessions.get(key);
    if (session === undefined) {
      const { config } = this;
      const options = { loraTargets: this.#loraTargets, taps, averaging };
      const weights = (prefill ? this.#parts.prefillWeights : undefined) ?? this.#parts.weights;
      // WebGPU has no kernel for the fused attention op.
      const build = (device: Device): GraphBuilder =>
        buildDecoder(config, weights(), { ...options, form: device === "webgpu" ? "primitive" : "fused" });
      session = EngineSession.create(build, this.#parts.engine);
      session.catch(() => this.#sessions.delete(key));
      this.#sessions.set(key, session);
    }
    return session;
  }

  async #disposeSessions(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions.clear();
    for (const session of sessions) await (await session).dispose();
  }

  async #refuseNaN(): Promise<never> {
    const weight = await this.#parts.findBadWeight();
    throw new PrecisError(
      "WEIGHTS_INVALID",
      weight === undefined ? "The model's outputs are NaN." : `The weight "${weight}" is not a finite number.`,
      {
        value: weight,
        nextStep: weight === undefined ? 'Try dtype "fp32", or check the adapter.' : "Download the checkpoint again.",
      },
    );
  }
}

/** A plain loop, since logits of a whole prompt are millions and a callback for each would show. */
function hasNaN(data: Float32Array): boolean {
  for (let i = 0; i < data.length; i++) if (Number.isNaN(data[i])) return true;
  return false;
}
