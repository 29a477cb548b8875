/** @file The worker's side of every operation: memories of one loaded model. */
import { PrecisError } from "../errors.js";
import { attentionPaid } from "../memory/attention.js";
import { slotsOf } from "../memory/slots.js";
import { encodeSnapshot } from "../memory/snapshot.js";
import { SpanAsker } from "../memory/spans/caller-spans.js";
import { answerInput, type Answerer } from "./answer-input.js";
import { appendInput } from "./append-input.js";
import { DecodeLoop } from "./decode-loop.js";
import { inputLogits, scoreInput } from "./input-logits.js";
import { likelihoods } from "./likelihoods.js";
import { LoadedModel } from "./loaded-model.js";
import { scoreMasked } from "./masked-pass.js";
import { MemoryTable } from "./memory-table.js";
import { newMemory, restoredMemory } from "./open-memory.js";
import { throwIfAborted, type OperationContext } from "./operation-context.js";
import type { EngineOperations, Operation } from "./protocol.js";

type Handlers = {
  [Op in Operation]: (argument: EngineOperations[Op][0], context: OperationContext) => Promise<EngineOperations[Op][1]>;
};

/** Serves operations. One per worker; `load` comes first. */
export class Engine {
  #answerer: Answerer | undefined;
  readonly #memories = new MemoryTable();

  /** Performs one operation. */
  perform<Op extends Operation>(
    operation: Op,
    argument: EngineOperations[Op][0],
    context: OperationContext,
  ): Promise<EngineOperations[Op][1]> {
    if (argument !== undefined && "memory" in argument) {
      const { memory } = argument;
      context.signal.addEventListener("abort", () => this.#memories.cancelAsking(memory ?? 0), { once: true });
    }
    return this.#handlers[operation](argument, context);
  }

  readonly #handlers: Handlers = {
    load: async ({ directory, options }, { signal, emit }) => {
      const model = await LoadedModel.load(directory, options, { signal, onProgress: emit });
      this.#answerer = { model, decodeLoop: new DecodeLoop(model.runner) };
      return model.info;
    },
    tokenize: async ({ text, addSpecialTokens }) => this.#tokenizer.encode(text, { addSpecialTokens }),
    detokenize: async ({ ids, skipSpecialTokens }) => this.#tokenizer.decode(ids, { skipSpecialTokens }),
    createMemory: async (request) => this.#memories.add(await newMemory(this.#model, request)),
    append: ({ memory, ...given }, context) =>
      this.#memories.locked(memory, (entry) => appendInput(entry, given, context)),
    generate: ({ memory, ...given }, context) =>
      this.#memories.locked(memory, (entry) => answerInput(this.#loaded, entry, given, context)),
    forward: ({ memory, ...given }, context) =>
      this.#memories.locked(memory, (entry) => inputLogits(this.#model, entry, given, context)),
    score: ({ memory, input }, context) =>
      this.#memories.locked(memory, (entry) => scoreInput(this.#model, entry, input, context)),
    likelihoods: ({ memory, asked }, { interruption }) =>
      this.#memories.locked(memory, (entry) =>
        entry.transact(false, async (session) => ({
          ids: [],
          result: await likelihoods(session, asked, () => throwIfAborted(interruption)),
        })),
      ),
    scoreMasked: async ({ texts, adapter }, { interruption }) => {
      const model = this.#model;
      const loaded = adapter === undefined ? undefined : (await model.adapter(adapter)).adapter;
      return scoreMasked(model.runner, texts, loaded, () => throwIfAborted(interruption));
    },
    peakSlots: ({ memory }) => this.#memories.locked(memory, async ({ session }) => session.peakSlots),
    stats: ({ memory }) => this.#memories.locked(memory, async ({ session }) => session.stats()),
    slots: ({ memory }) => this.#memories.locked(memory, async ({ session }) => slotsOf(session.row)),
    attention: ({ memory, input, answer }, { interruption }) =>
      this.#memories.locked(memory, (entry) => {
        const { ids, marks } = entry.conversation.prompt(input);
        const answered =
          typeof answer === "string" ? this.#tokenizer.encode(answer, { addSpecialTokens: false }) : answer;
        const check = (): void => throwIfAborted(interruption);
        return attentionPaid(entry.session, { ids, marks, answer: answered }, check);
      }),
    rows: ({ memory }) =>
      this.#memories.locked(memory, async ({ session }) => {
        const { kvHeads, headDim } = session.row.shape;
        return { ...session.row.export(), kvHeads, headDim };
      }),
    fork: ({ memory, spanPort }) =>
      this.#memories.locked(memory, async (entry) => {
        const fork = entry.fork();
        fork.session.spanAsker = spanPort && new SpanAsker(spanPort);
        return this.#memories.add(fork);
      }),
    snapshot: ({ memory, precision, compress }) =>
      this.#memories.locked(memory, async ({ session, conversation, tokenChain }) =>
        encodeSnapshot(session, this.#model.identity(session.adapter, session.spanAdapter), {
          tokenChain,
          precision,
          compress,
          messages: conversation.state,
        }),
      ),
    restore: async ({ memory, ...given }) => {
      const model = this.#model;
      if (memory === undefined) return this.#memories.add(await restoredMemory(model, given));
      const present = this.#memories.get(memory);
      const restored = await restoredMemory(model, given, present);
      return present.exclusive(async () => {
        present.become(restored);
        return present.info(memory);
      });
    },
    disposeMemory: async ({ memory }) => {
      this.#memories.dispose(memory);
      return undefined;
    },
    dispose: async () => {
      this.#memories.clear();
      await this.#answerer?.model.dispose();
      this.#answerer = undefined;
      return undefined;
    },
  };

  get #loaded(): Answerer {
    if (this.#answerer !== undefined) return this.#answerer;
    throw new PrecisError("DISPOSED", "This model was disposed.", { nextStep: "Load it again." });
  }

  get #model(): LoadedModel {
    return this.#loaded.model;
  }

  get #tokenizer(): NonNullable<LoadedModel["tokenizer"]> {
    const { tokenizer } = this.#model;
    if (tokenizer !== undefined) return tokenizer;
    throw new PrecisError("INPUT_INVALID", "This model has no tokenizer.", { nextStep: "Use token ids." });
  }
}
