/** @file An adapter as the engine takes it: LoRA matrices as tensors, COMP embeddings as rows. */
import type { Tensor } from "onnxruntime-node";
import type { LoraTarget } from "../models/decoder-io.js";
import type { Adapter } from "../weights/adapter.js";
import { isRecord } from "../weights/files.js";
import { floatTensor } from "./engine-session.js";

/** Tensors of one low-rank update: `a` [rank, in], `b` [out, rank], the scale already in `b`. */
export interface LoraTensors {
  a: Tensor;
  b: Tensor;
}

/** An adapter made ready for runs. Shared by every memory that uses it; holds no native resource. */
export class LoadedAdapter {
  readonly directory: string;
  readonly fingerprint: string;
  /** Whether the LoRA acts at COMP tokens only (else at every token). */
  readonly gated: boolean;
  /** COMP tokens per time step; 0 for an ordinary adapter. */
  readonly compTokens: number;
  /** The memory method it was trained for, if it says so. */
  readonly method: string | undefined;
  /** Options that it was trained with; defaults of that method. */
  readonly methodOptions: Readonly<Record<string, unknown>>;
  /** [compTokens, hidden] */
  readonly compEmbeddings: Float32Array | undefined;
  /** [hidden], the factor that makes last hidden states input embeddings; only in adapters for recurrent summaries. */
  readonly summaryGain: Float32Array | undefined;
  readonly targets: readonly LoraTarget[];
  readonly #tensors = new Map<string, LoraTensors>();

  constructor(adapter: Adapter) {
    this.directory = adapter.directory;
    this.fingerprint = adapter.fingerprint;
    this.gated = adapter.config.gated;
    this.compEmbeddings = adapter.compEmbeddings?.data;
    this.compTokens = adapter.compEmbeddings?.count ?? 0;
    this.summaryGain = adapter.compEmbeddings?.summaryGain;
    this.method = adapter.config.precis?.method;
    const options = adapter.config.precis?.["options"];
    this.methodOptions = isRecord(options) ? options : {};
    const targets = new Set<LoraTarget>();
    for (const [path, pair] of adapter.lora) {
      const target = path.split(".").slice(2).join(".") as LoraTarget;
      targets.add(target);
      this.#tensors.set(path, {
        a: floatTensor(pair.a, [pair.rank, pair.inFeatures]),
        b: floatTensor(pair.b, [pair.outFeatures, pair.rank]),
      });
    }
    this.targets = [...targets].sort();
  }

  /** The update of one projection, or undefined where the adapter has none. */
  tensors(layer: number, target: string): LoraTensors | undefined {
    return this.#tensors.get(`layers.${layer}.${target}`);
  }
}
