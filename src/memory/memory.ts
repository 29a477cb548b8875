/** @file The memory that users hold: a conversation, profile or stream that stays small however long it grows. */
import { PrecisError } from "../errors.js";
import type {
  AdapterInfo,
  Continuations,
  ForwardOutput,
  GenerateOptions,
  GenerationEvent,
  Likelihoods,
  MemoryInfo,
  MemoryInput,
  MemoryRows,
} from "../runtime/protocol.js";
import type { WorkerClient } from "../runtime/worker-client.js";
import type { ToolDefinition } from "../tools/tool.js";
import type { MemoryStats } from "./memory-stats.js";
import type { SnapshotPrecision } from "./snapshot.js";
import type { MemoryAttention, MemorySlot } from "./slots.js";
import { SpanAnswerer } from "./spans/caller-spans.js";

/** What work on a memory may come with. */
export interface WorkOptions {
  /** Cancels the work; the memory stays as it was before. */
  signal?: AbortSignal;
  /** Called as tokens are taken in. */
  onProgress?: (progress: { done: number; total: number }) => void;
}

/** How a snapshot is written. */
export interface SnapshotOptions {
  /**
   * `"fp32"` restores exactly the same logits; `"fp16"` takes half the bytes, `"int8"` about a quarter and `"int4"` about
   * an eighth. `npm run bench:snapshots` measures what each loses. Default `"fp32"`.
   */
  precision?: SnapshotPrecision;
  /** Whether to code the rows by their entropy, which loses nothing and takes some milliseconds. Default no. */
  compress?: boolean;
}

/** A finished generation. */
export type GenerationResult = Omit<Extract<GenerationEvent, { type: "finish" }>, "type">;

/**
 * A memory of a loaded model. Operations run one after another; different memories run side by side.
 *
 * @example
 * const memory = await model.createMemory({ method: "streaming" });
 * await memory.append([{ role: "user", content: "My cat is called Ada." }]);
 * for await (const event of memory.generate([{ role: "user", content: "What is my cat called?" }])) {
 *   if (event.type === "text-delta") process.stdout.write(event.text);
 * }
 */
export class Memory implements AsyncDisposable {
  readonly #client: WorkerClient;
  readonly #spans: SpanAnswerer | undefined;
  #info: MemoryInfo;

  /** Made by {@link LanguageModel.createMemory} and the like. */
  constructor(client: WorkerClient, info: MemoryInfo, spans?: SpanAnswerer) {
    this.#client = client;
    this.#spans = spans;
    this.#info = info;
  }

  /** Name of the memory method. */
  get method(): string {
    return this.#info.method;
  }

  /** Options of the method, defaults included. */
  get options(): Readonly<Record<string, unknown>> {
    return this.#info.options;
  }

  /** The adapter in use. */
  get adapter(): AdapterInfo | undefined {
    return this.#info.adapter;
  }

  /**
   * Takes in context: each message is a time step, and so is a text or a list of ids.
   * @param options.tools functions that the model is told of before; say those that the next answer may call
   */
  append(
    input: MemoryInput,
    { tools, ...options }: WorkOptions & { tools?: readonly ToolDefinition[] } = {},
  ): Promise<MemoryStats> {
    return this.#client.call("append", { memory: this.#info.id, input, tools }, progressCall(options));
  }

  /**
   * Answers an input, event by event. Afterwards input and answer are a time step of the memory, unless
   * `remember: false`. Leaving the loop early ends the answer and keeps it; aborting the signal forgets it.
   *
   * @throws SCHEMA_UNSUPPORTED for a schema that answers cannot be held to
   * @example JSON that fits a schema
   * const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
   * const { text } = await memory.answer(messages, { responseFormat: { type: "json_schema", schema } });
   * @example Functions: their results go in as messages with the role tool
   * const tools = [{ name: "weather", description: "Weather of a city", parameters: schema }];
   * const { toolCalls } = await memory.answer(messages, { tools });
   * const results = toolCalls.map(({ id }) => ({ role: "tool", toolCallId: id, content: "sunny" }));
   * await memory.answer(results, { tools });
   */
  async *generate(
    input: MemoryInput,
    options: GenerateOptions & { signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerationEvent, void, void> {
    const { signal, ...rest } = options;
    const queue: GenerationEvent[] = [];
    let wake: () => void = () => undefined;
    let done = false;
    const call = this.#client.start(
      "generate",
      { memory: this.#info.id, input, options: rest },
      {
        signal,
        onEvent: (event) => {
          if ("type" in event) queue.push(event);
          wake();
        },
      },
    );
    const end = call.result.then(
      () => undefined,
      (error: unknown) => error,
    );
    const finish = (): void => {
      done = true;
      wake();
    };
    void end.then(finish);
    try {
      for (;;) {
        for (let event = queue.shift(); event !== undefined; event = queue.shift()) yield event;
        if (done) break;
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (done || queue.length > 0) resolve();
        });
      }
    } finally {
      if (!done) call.stop();
      await end;
    }
    const error = await end;
    if (error !== undefined) throw error;
  }

  /** The whole answer to an input at once. */
  async answer(
    input: MemoryInput,
    options: GenerateOptions & { signal?: AbortSignal } = {},
  ): Promise<GenerationResult> {
    for await (const event of this.generate(input, options)) {
      if (event.type !== "finish") continue;
      const { type: _, ...result } = event;
      return result;
    }
    throw new PrecisError("ENGINE_FAILED", "The generation ended without a result.");
  }

  /**
   * Logits of an input given this memory, which stays unchanged.
   * @param options.logits all tokens (default) or the last one only
   * @param options.taps inner tensors to return as well: `hidden.N`, `queries.N`, `attention.N`, `attention_mean.N`
   */
  forward(
    input: MemoryInput,
    options: { logits?: "last" | "all"; taps?: readonly string[]; signal?: AbortSignal } = {},
  ): Promise<ForwardOutput> {
    const { logits = "all", taps = [], signal } = options;
    return this.#client.call("forward", { memory: this.#info.id, input, logits, taps }, { signal });
  }

  /**
   * Takes in a stream and scores it: the negative log-likelihood in nats of every token after the first, given the memory
   * as it was at that moment.
   */
  score(input: MemoryInput, options: WorkOptions = {}): Promise<Float32Array> {
    return this.#client.call("score", { memory: this.#info.id, input }, progressCall(options));
  }

  /**
   * How likely each of several continuations is after each of several inputs. The memory stays unchanged; what inputs and
   * continuations share is read once.
   */
  likelihoods(asked: readonly Continuations[], options: { signal?: AbortSignal } = {}): Promise<Likelihoods[]> {
    return this.#client.call("likelihoods", { memory: this.#info.id, asked }, options);
  }

  /** Most KV positions per layer that any of its runs has needed at once, since it was created or restored. */
  peakSlots(): Promise<number> {
    return this.#client.call("peakSlots", { memory: this.#info.id });
  }

  /** What the memory holds and saves. */
  stats(): Promise<MemoryStats> {
    return this.#client.call("stats", { memory: this.#info.id });
  }

  /** What each held slot is and where it comes from, in their order in the cache. */
  slots(): Promise<MemorySlot[]> {
    return this.#client.call("slots", { memory: this.#info.id });
  }

  /**
   * How much attention an input pays to each held slot, or, with `answer`, the tokens of the answer while it is written.
   * Input and answer are read as they would be if they came now; the memory stays unchanged. The first call builds a
   * variant of the graph for it.
   * @param options.answer the answer that followed the input, as text or token ids
   *
   * @example
   * const { layers } = await memory.attention([{ role: "user", content: "Where does Ada live?" }], { answer: "Porto." });
   */
  attention(
    input: MemoryInput,
    { answer, signal }: { answer?: string | readonly number[]; signal?: AbortSignal } = {},
  ): Promise<MemoryAttention> {
    return this.#client.call("attention", { memory: this.#info.id, input, answer }, { signal });
  }

  /** A copy of the held keys and values. */
  rows(): Promise<MemoryRows> {
    return this.#client.call("rows", { memory: this.#info.id });
  }

  /** An independent copy that continues from here. */
  async fork(): Promise<Memory> {
    const spans = this.#spans && new SpanAnswerer(this.#spans.choose);
    const call = { transfer: spans === undefined ? [] : [spans.port] };
    const info = await this.#client.call("fork", { memory: this.#info.id, spanPort: spans?.port }, call);
    return new Memory(this.#client, info, spans);
  }

  /** The memory as bytes; {@link Memory.restore} and {@link LanguageModel.restoreMemory} read them. */
  snapshot({ precision = "fp32", compress = false }: SnapshotOptions = {}): Promise<Uint8Array> {
    return this.#client.call("snapshot", { memory: this.#info.id, precision, compress });
  }

  /**
   * Replaces the contents by those of a snapshot. If it is refused, the memory stays as it was.
   * @throws SNAPSHOT_CORRUPT, SNAPSHOT_MISMATCH
   */
  async restore(bytes: Uint8Array): Promise<void> {
    this.#info = await this.#client.call("restore", { memory: this.#info.id, bytes });
  }

  /** Frees the memory; a disposed model has freed it already. */
  async dispose(): Promise<void> {
    await this.#client.call("disposeMemory", { memory: this.#info.id }).catch((error: unknown) => {
      if (!(error instanceof PrecisError && error.code === "DISPOSED")) throw error;
    });
    this.#spans?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

function progressCall({ signal, onProgress }: WorkOptions): Parameters<WorkerClient["call"]>[2] {
  return {
    signal,
    onEvent: (event) => {
      if ("type" in event && event.type === "prompt-progress") onProgress?.({ done: event.done, total: event.total });
    },
  };
}
