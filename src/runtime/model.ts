/** @file Loading a model, and the model that users hold. */
import { Memory } from "../memory/memory.js";
import { SpanAnswerer } from "../memory/spans/caller-spans.js";
import { resolveModel } from "../weights/hub.js";
import type { Device } from "./device.js";
import type { CreateMemoryOptions, LoadProgress, MaskedText, ModelInfo, WeightDType } from "./protocol.js";
import { WorkerClient } from "./worker-client.js";

/** How to load a model. */
export interface LoadOptions {
  /** `"fp32"` runs the weights as stored; the others convert once and keep the copy in the cache. Default `"fp32"`. */
  dtype?: WeightDType;
  /** Default `"auto"`: the fastest device that starts. */
  device?: Device | "auto";
  /** CPU threads of one run; default: one per physical core. */
  threads?: number;
  /**
   * Whether idle threads of the engine wait actively for their next piece of a run. That is a little faster on a machine
   * that does nothing else, and more than twice as slow beside a busy program. Default true.
   */
  spin?: boolean;
  /** Revision of a hub model. */
  revision?: string;
  /** Only use what is on disk. */
  offline?: boolean;
  /** Where converted weights are kept; default: `PRECIS_CACHE`, else the user's cache folder. */
  cacheDir?: string;
  /**
   * With `"int4"` on the CPU: keep a second, int8 form of the weights for inputs of many tokens, which are then read about
   * twice as fast, for one more byte per parameter. Default true.
   */
  fastPrefill?: boolean;
  /** Write the engine's per-node timings to files with this prefix. */
  profilePrefix?: string;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

/** How to restore a memory. */
export interface RestoreOptions extends Pick<CreateMemoryOptions, "adapter" | "spanAdapter" | "spans"> {
  /** Whether the snapshot's bytes and their ArrayBuffer may be given away. Default false. */
  consume?: boolean;
}

/** The buffer that bytes lie in, if it is theirs: small Buffers of Node share one, of which each is less than half. */
function bufferOf({ buffer, byteLength }: Uint8Array): ArrayBuffer[] {
  return buffer instanceof ArrayBuffer && byteLength > buffer.byteLength / 2 ? [buffer] : [];
}

/** A model running in a worker thread of its own. Whoever loads it disposes it. */
export class LanguageModel implements AsyncDisposable {
  readonly info: ModelInfo;
  readonly #client: WorkerClient;

  /** Made by {@link loadModel}. */
  constructor(client: WorkerClient, info: ModelInfo) {
    this.#client = client;
    this.info = info;
  }

  /** A new, empty memory. */
  async createMemory({ spans, ...options }: CreateMemoryOptions = {}): Promise<Memory> {
    const answerer = spans && new SpanAnswerer(spans);
    const call = { transfer: answerer === undefined ? [] : [answerer.port] };
    const info = await this.#client.call("createMemory", { ...options, spanPort: answerer?.port }, call);
    return new Memory(this.#client, info, answerer);
  }

  /**
   * A memory with the contents of a snapshot.
   * @param options.adapter the adapter that it was made with
   * @param options.spanAdapter the sentinel adapter that it was made with beside that, if there was one
   * @param options.spans the function that chooses spans, if it had one
   * @param options.consume whether `bytes` and the ArrayBuffer that they lie in may be given away to the engine's thread,
   * which spares the time of copying them: they are empty afterwards
   * @throws SNAPSHOT_CORRUPT, SNAPSHOT_MISMATCH
   */
  async restoreMemory(
    bytes: Uint8Array,
    { adapter, spanAdapter, spans, consume = false }: RestoreOptions = {},
  ): Promise<Memory> {
    const answerer = spans && new SpanAnswerer(spans);
    const argument = { memory: undefined, bytes, adapter, spanAdapter, spanPort: answerer?.port };
    const info = await this.#client.call("restore", argument, {
      transfer: [...(answerer === undefined ? [] : [answerer.port]), ...(consume ? bufferOf(bytes) : [])],
    });
    return new Memory(this.#client, info, answerer);
  }

  /**
   * How unlikely tokens of texts are, in nats, when each token sees what its text's mask says: the form in which methods
   * are trained, one pass per text and without a memory.
   * @param options.adapter folder of an adapter
   */
  scoreMasked(
    texts: readonly MaskedText[],
    { adapter, signal }: { adapter?: string | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<Float32Array[]> {
    return this.#client.call("scoreMasked", { texts, adapter }, { signal });
  }

  /** Token ids of a text. */
  tokenize(text: string, { addSpecialTokens = false }: { addSpecialTokens?: boolean } = {}): Promise<number[]> {
    return this.#client.call("tokenize", { text, addSpecialTokens });
  }

  /** The text of token ids. */
  detokenize(
    ids: readonly number[],
    { skipSpecialTokens = false }: { skipSpecialTokens?: boolean } = {},
  ): Promise<string> {
    return this.#client.call("detokenize", { ids, skipSpecialTokens });
  }

  /** Frees the model and all its memories. */
  async dispose(): Promise<void> {
    await this.#client.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/**
 * Loads a checkpoint in the Hugging Face layout from a folder, or from the hub by its id.
 * @throws FILE_NOT_FOUND, HUB_UNREACHABLE, MODEL_UNSUPPORTED, CONFIG_INVALID, WEIGHTS_INVALID, DEVICE_UNAVAILABLE,
 * OUT_OF_MEMORY, ABORTED
 *
 * @example
 * await using model = await loadModel("models/precis-28m", { dtype: "int8" });
 */
export async function loadModel(dirOrHubId: string, options: LoadOptions = {}): Promise<LanguageModel> {
  const {
    dtype = "fp32",
    device = "auto",
    threads,
    spin = true,
    revision,
    offline,
    cacheDir,
    fastPrefill = true,
    profilePrefix,
    signal,
    onProgress,
  } = options;
  const directory = await resolveModel(dirOrHubId, {
    revision,
    offline,
    signal,
    onProgress: ({ file, bytesDone, bytesTotal }) =>
      onProgress?.({ phase: "download", item: file, done: bytesDone, total: bytesTotal }),
  });
  const client = new WorkerClient();
  try {
    const info = await client.call(
      "load",
      { directory, options: { dtype, device, threads, spin, cacheDir, fastPrefill, profilePrefix } },
      {
        signal,
        onEvent: (event) => {
          if ("phase" in event) onProgress?.(event);
        },
      },
    );
    return new LanguageModel(client, info);
  } catch (error) {
    await client.terminate();
    throw error;
  }
}
