/** @file The worker's side of every operation: memories of one loaded model. */
import { performance } from "node:perf_hooks";
import { PrecisError } from "../errors.js";
import { resolveOptions } from "../memory/method.js";
import { attentionPaid } from "../memory/attention.js";
import { findMethod } from "../memory/registry.js";
import { MemorySession, type FeedOptions } from "../memory/session.js";
import { slotsOf } from "../memory/slots.js";
import { decodeSnapshot, encodeSnapshot, refuseOtherMethod } from "../memory/snapshot.js";
import { SpanAsker } from "../memory/spans/caller-spans.js";
import type { ChatMessage } from "../text/chat-template.js";
import { toolSetup } from "../tools/tool.js";
import { Conversation, type ReadInput } from "./conversation.js";
import { DecodeLoop } from "./decode-loop.js";
import { Generation, throwIfAborted, type Interruption } from "./generation.js";
import { likelihoods } from "./likelihoods.js";
import { LoadedModel } from "./loaded-model.js";
import { scoreMasked } from "./masked-pass.js";
import { MemoryEntry } from "./memory-entry.js";
import type {
  EngineOperations,
  FromWorker,
  GenerateOptions,
  GenerationEvent,
  MemoryInfo,
  MemoryInput,
  Operation,
} from "./protocol.js";
import { logProbability } from "./sampler.js";

/** What an operation may use besides its argument. */
export interface OperationContext {
  interruption: Interruption;
  /** Fires with an abort request, for work that waits on files. */
  signal: AbortSignal;
  emit: (event: Extract<FromWorker, { event: unknown }>["event"]) => void;
}

type Handlers = {
  [Op in Operation]: (argument: EngineOperations[Op][0], context: OperationContext) => Promise<EngineOperations[Op][1]>;
};

/** Serves operations. One per worker; `load` comes first. */
export class Engine {
  #model: LoadedModel | undefined;
  #decodeLoop: DecodeLoop | undefined;
  readonly #memories = new Map<number, MemoryEntry>();
  #nextId = 1;

  /** Performs one operation. */
  perform<Op extends Operation>(
    operation: Op,
    argument: EngineOperations[Op][0],
    context: OperationContext,
  ): Promise<EngineOperations[Op][1]> {
    if (argument !== undefined && "memory" in argument) {
      const { memory } = argument;
      // A caller's function may take its time to answer.
      const cancel = (): void => this.#memories.get(memory ?? 0)?.session.spanAsker?.cancel();
      context.signal.addEventListener("abort", cancel, { once: true });
    }
    return this.#handlers[operation](argument, context);
  }

  readonly #handlers: Handlers = {
    load: async ({ directory, options }, { signal, emit }) => {
      this.#model = await LoadedModel.load(directory, options, { signal, onProgress: emit });
      this.#decodeLoop = new DecodeLoop(this.#model.runner);
      return this.#model.info;
    },
    tokenize: async ({ text, addSpecialTokens }) => this.#tokenizer().encode(text, { addSpecialTokens }),
    detokenize: async ({ ids, skipSpecialTokens }) => this.#tokenizer().decode(ids, { skipSpecialTokens }),
    createMemory: async ({ method, options = {}, adapter, spanAdapter, spanPort }) => {
      const model = this.#loaded();
      const loaded = adapter === undefined ? undefined : await model.adapter(adapter);
      const chosen = findMethod(method ?? loaded?.adapter.method ?? "full");
      const trained = loaded?.adapter.method === chosen.name ? loaded.adapter.methodOptions : {};
      const resolved = resolveOptions(chosen, { ...trained, ...options });
      const session = new MemorySession(model.runner, chosen, resolved, loaded?.adapter, undefined, {
        words: model.words,
        spanAdapter: spanAdapter === undefined ? undefined : (await model.adapter(spanAdapter)).adapter,
        spanAsker: spanPort && new SpanAsker(spanPort),
      });
      const conversation = new Conversation(model, session.behavior.readsMarks);
      return this.#register(new MemoryEntry(session, conversation, loaded?.info));
    },
    append: ({ memory, input, tools }, context) =>
      this.#locked(memory, (entry) => this.#append(entry, { input, tools }, context)),
    generate: ({ memory, input, options }, context) =>
      this.#locked(memory, (entry) => this.#generate(entry, input, options, context)),
    forward: ({ memory, input, logits, taps }, { interruption }) =>
      this.#locked(memory, (entry) => this.#forward(entry, input, logits, taps, interruption)),
    score: ({ memory, input }, context) => this.#locked(memory, (entry) => this.#score(entry, input, context)),
    likelihoods: ({ memory, asked }, { interruption }) =>
      this.#locked(memory, (entry) =>
        entry.transact(false, async (session) => ({
          ids: [],
          result: await likelihoods(session, asked, () => throwIfAborted(interruption)),
        })),
      ),
    scoreMasked: async ({ texts, adapter }, { interruption }) => {
      const model = this.#loaded();
      const loaded = adapter === undefined ? undefined : (await model.adapter(adapter)).adapter;
      return scoreMasked(model.runner, texts, loaded, () => throwIfAborted(interruption));
    },
    peakSlots: ({ memory }) => this.#locked(memory, async ({ session }) => session.peakSlots),
    stats: ({ memory }) => this.#locked(memory, async ({ session }) => session.stats()),
    slots: ({ memory }) => this.#locked(memory, async ({ session }) => slotsOf(session.row)),
    attention: ({ memory, input, answer }, { interruption }) =>
      this.#locked(memory, (entry) => {
        const { ids, marks } = entry.conversation.prompt(input);
        const answered =
          typeof answer === "string" ? this.#tokenizer().encode(answer, { addSpecialTokens: false }) : answer;
        const check = (): void => throwIfAborted(interruption);
        return attentionPaid(entry.session, { ids, marks, answer: answered }, check);
      }),
    rows: ({ memory }) =>
      this.#locked(memory, async ({ session }) => {
        const { kvHeads, headDim } = session.row.shape;
        return { ...session.row.export(), kvHeads, headDim };
      }),
    fork: ({ memory, spanPort }) =>
      this.#locked(memory, async (entry) => {
        const fork = entry.fork();
        fork.session.spanAsker = spanPort && new SpanAsker(spanPort);
        return this.#register(fork);
      }),
    snapshot: ({ memory, precision, compress }) =>
      this.#locked(memory, async ({ session, conversation, tokenChain }) =>
        encodeSnapshot(session, this.#loaded().identity(session.adapter, session.spanAdapter), {
          tokenChain,
          precision,
          compress,
          messages: conversation.state,
        }),
      ),
    restore: (argument) => this.#restore(argument),
    disposeMemory: async ({ memory }) => {
      this.#memories.get(memory)?.session.spanAsker?.close();
      this.#memories.delete(memory);
      return undefined;
    },
    dispose: async () => {
      this.#memories.clear();
      await this.#model?.dispose();
      this.#model = undefined;
      return undefined;
    },
  };

  async #append(
    entry: MemoryEntry,
    { input, tools }: Pick<EngineOperations["append"][0], "input" | "tools">,
    { interruption, emit }: OperationContext,
  ): Promise<MemoryInfo["stats"]> {
    const steps = entry.conversation.steps(input, tools);
    const total = steps.reduce((sum, { ids }) => sum + ids.length, 0);
    let done = 0;
    await entry.transact(true, async (session) => {
      for (const { ids, marks } of steps) {
        const before = done;
        await session.append(ids, {
          marks,
          check: () => throwIfAborted(interruption),
          onProgress: (fed) => emit({ type: "prompt-progress", done: before + fed, total }),
        });
        done += ids.length;
      }
      return { ids: steps.flatMap(({ ids }) => ids), result: undefined };
    });
    entry.conversation.remember(
      steps.flatMap(({ messages }) => messages),
      steps.at(-1)?.told,
    );
    return entry.session.stats();
  }

  async #generate(
    entry: MemoryEntry,
    input: MemoryInput,
    options: GenerateOptions,
    { interruption, emit }: OperationContext,
  ): Promise<undefined> {
    const setup = toolSetup(options.tools, options.toolChoice, options.parallelToolCalls);
    const asked = entry.conversation.prompt(input, setup?.tools);
    const { ids, messages, marks } = asked;
    const remember = options.remember ?? true;
    const finish = await entry.transact(remember, async (session) => {
      const generation = new Generation(this.#loaded(), session, ids, { ...options, setup }, interruption, emit);
      const startedAt = performance.now();
      await session.feed(ids, {
        purpose: "input",
        logits: "last",
        marks,
        onLogits: (logits) => generation.accept(logits),
        check: () => throwIfAborted(interruption),
        onProgress: (done, total) => emit({ type: "prompt-progress", done, total }),
      });
      const promptMs = performance.now() - startedAt;
      if (generation.finished === undefined) await this.#decoder().run(generation);
      const generateMs = generation.elapsedMs;
      const fed = await this.#close(entry, session, generation, asked, remember);
      const timings = { promptTokens: ids.length, promptMs, generatedTokens: generation.tokenIds.length, generateMs };
      return { ids: [...ids, ...fed], result: { generation, timings, stats: session.stats() } };
    });
    const { generation, timings, stats } = finish;
    if (remember) {
      entry.conversation.remember(messages.length > 0 ? [...messages, reply(generation.rawText)] : [], asked.told);
    }
    const reason = generation.finished as NonNullable<typeof generation.finished>;
    const event: GenerationEvent = {
      type: "finish",
      reason,
      text: generation.text,
      toolCalls: generation.toolCalls,
      tokenIds: generation.tokenIds,
      timings,
      stats,
    };
    emit(event);
    return undefined;
  }

  /** Feeds what the answer still lacks and ends the step. @returns the tokens fed since the prompt */
  async #close(
    entry: MemoryEntry,
    session: MemorySession,
    generation: Generation,
    asked: ReadInput,
    remember: boolean,
  ): Promise<number[]> {
    if (!remember) return [];
    // An answer that ended at a chosen token never ran it; the others ended when its successor was due, so it was run.
    const answered = session.openIds.length;
    const missing = generation.endsUnread ? generation.tokenIds.slice(-1) : [];
    const closing = asked.messages.length > 0 ? entry.conversation.closing(asked, generation.rawText) : [];
    await session.feed([...missing, ...closing], { purpose: "input", logits: "none" });
    const fed = [...generation.tokenIds, ...closing];
    if (answered > 0) await session.closeStep();
    return fed;
  }

  async #forward(
    entry: MemoryEntry,
    input: MemoryInput,
    which: "last" | "all",
    taps: readonly string[],
    interruption: Interruption,
  ): Promise<EngineOperations["forward"][1]> {
    const { ids, marks } = entry.conversation.prompt(input);
    const { vocabSize } = this.#loaded().info;
    if (taps.length > 0) {
      if (marks.length > 0) {
        throw new PrecisError("INPUT_INVALID", "Taps come from one pass, in which no span can be compressed.", {
          nextStep: "Leave the marks out, or append what is marked first.",
        });
      }
      // Taps come from one pass, so that their axes are those of the whole input.
      const session = entry.session.fork();
      const result = await session.runner.forward([session.nextInput(ids, "input")], {
        logits: which,
        adapter: session.textAdapter,
        taps,
      });
      return { logits: result.logits, tokens: result.logits.length / vocabSize, vocabSize, taps: result.taps, ids };
    }
    const tokens = which === "all" ? ids.length : 1;
    const logits = new Float32Array(tokens * vocabSize);
    const onLogits: FeedOptions["onLogits"] = (part, start) =>
      logits.set(part, which === "all" ? start * vocabSize : 0);
    await entry.transact(false, async (session) => {
      const check = (): void => throwIfAborted(interruption);
      await session.feed(ids, { purpose: "input", logits: which, marks, onLogits, check });
      return { ids, result: undefined };
    });
    return { logits, tokens, vocabSize, taps: {}, ids };
  }

  async #score(
    entry: MemoryEntry,
    input: MemoryInput,
    { interruption, emit }: OperationContext,
  ): Promise<Float32Array> {
    const { ids, marks } = entry.conversation.prompt(input);
    const { vocabSize } = this.#loaded().info;
    const nll = new Float32Array(ids.length - 1);
    await entry.transact(true, async (session) => {
      await session.feed(ids, {
        purpose: "input",
        logits: "all",
        marks,
        check: () => throwIfAborted(interruption),
        onProgress: (done, total) => emit({ type: "prompt-progress", done, total }),
        onLogits: (logits, start) => {
          for (let token = 0; token * vocabSize < logits.length; token++) {
            const next = ids[start + token + 1];
            if (next === undefined) break;
            nll[start + token] = -logProbability(logits.subarray(token * vocabSize, (token + 1) * vocabSize), next);
          }
        },
      });
      return { ids, result: undefined };
    });
    entry.conversation.remember([]);
    return nll;
  }

  async #restore({
    memory,
    bytes,
    adapter: adapterDirectory,
    spanAdapter: spanDirectory,
    spanPort,
  }: EngineOperations["restore"][0]): Promise<MemoryInfo> {
    const model = this.#loaded();
    const present = memory === undefined ? undefined : this.#entry(memory);
    const loaded = adapterDirectory === undefined ? undefined : await model.adapter(adapterDirectory);
    const adapter = loaded?.adapter ?? present?.session.adapter;
    const spanAdapter =
      spanDirectory === undefined ? present?.session.spanAdapter : (await model.adapter(spanDirectory)).adapter;
    const { shape } = model.runner;
    const restored = decodeSnapshot(bytes, model.identity(adapter, spanAdapter), {
      shape,
      vocabSize: model.info.vocabSize,
    });
    if (present !== undefined) refuseOtherMethod(restored, present.session);
    const method = findMethod(restored.method);
    const session = new MemorySession(model.runner, method, restored.options, adapter, restored, {
      words: model.words,
      spanAdapter,
      spanAsker: present === undefined ? spanPort && new SpanAsker(spanPort) : present.session.spanAsker,
    });
    const conversation = new Conversation(model, session.behavior.readsMarks, restored.messages);
    const entry = new MemoryEntry(session, conversation, loaded?.info ?? present?.adapterInfo, restored.tokenChain);
    if (present === undefined || memory === undefined) return this.#register(entry);
    return present.exclusive(async () => {
      Object.assign(present, { session, conversation, tokenChain: restored.tokenChain });
      return this.#info(memory, present);
    });
  }

  #register(entry: MemoryEntry): MemoryInfo {
    const id = this.#nextId++;
    this.#memories.set(id, entry);
    return this.#info(id, entry);
  }

  #info(id: number, { session, adapterInfo }: MemoryEntry): MemoryInfo {
    return { id, method: session.method.name, options: session.options, adapter: adapterInfo, stats: session.stats() };
  }

  #locked<Result>(memory: number, work: (entry: MemoryEntry) => Promise<Result>): Promise<Result> {
    const entry = this.#entry(memory);
    return entry.exclusive(() => work(entry));
  }

  #entry(memory: number): MemoryEntry {
    const entry = this.#memories.get(memory);
    if (entry !== undefined) return entry;
    throw new PrecisError("DISPOSED", "This memory was disposed.", { nextStep: "Create another one." });
  }

  #loaded(): LoadedModel {
    if (this.#model !== undefined) return this.#model;
    throw new PrecisError("DISPOSED", "This model was disposed.", { nextStep: "Load it again." });
  }

  #decoder(): DecodeLoop {
    this.#loaded();
    return this.#decodeLoop as DecodeLoop;
  }

  #tokenizer(): NonNullable<LoadedModel["tokenizer"]> {
    const { tokenizer } = this.#loaded();
    if (tokenizer !== undefined) return tokenizer;
    throw new PrecisError("INPUT_INVALID", "This model has no tokenizer.", { nextStep: "Use token ids." });
  }
}

function reply(content: string): ChatMessage {
  return { role: "assistant", content };
}
