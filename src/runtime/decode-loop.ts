/** @file Decodes all running generations together, one token each per step, whatever their lengths and methods. */
import { RowBatch } from "../cache/row-batch.js";
import type { DecoderRunner } from "./decoder-runner.js";
import type { Generation } from "./generation.js";
import type { LoadedAdapter } from "./loaded-adapter.js";
import { actingAdapter, type SequenceInput } from "./sequence-input.js";

interface Entry {
  generation: Generation;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** A generation with its next token. */
interface Prepared {
  entry: Entry;
  input: SequenceInput;
}

/**
 * Generations join when their prompt has been read and leave when they finish. Each step is one forward pass, and one more
 * for each adapter that acts on text.
 */
export class DecodeLoop {
  readonly #runner: DecoderRunner;
  #entries: Entry[] = [];
  /** The rows of each pass, from step to step. */
  #batches = new Map<LoadedAdapter | undefined, RowBatch>();
  #running = false;

  constructor(runner: DecoderRunner) {
    this.#runner = runner;
  }

  /** Decodes until the generation is finished. */
  run(generation: Generation): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#entries.push({ generation, resolve, reject });
      if (!this.#running) void this.#loop();
    });
  }

  async #loop(): Promise<void> {
    this.#running = true;
    while (this.#entries.length > 0) {
      const groups = await this.#groups();
      for (const adapter of this.#batches.keys()) if (!groups.has(adapter)) this.#batches.delete(adapter);
      for (const [adapter, group] of groups) await this.#step(adapter, group);
      this.#entries = this.#entries.filter((entry) => !this.#settle(entry));
    }
    this.#batches.clear();
    this.#running = false;
  }

  /** Generations that go on, by the adapter that acts on their next tokens: those of one adapter share a pass. */
  async #groups(): Promise<Map<LoadedAdapter | undefined, Prepared[]>> {
    const groups = new Map<LoadedAdapter | undefined, Prepared[]>();
    for (const entry of this.#entries) {
      for (const prepared of await this.#prepare(entry)) {
        const adapter = actingAdapter(prepared.input, entry.generation.session.textAdapter, this.#runner.config);
        groups.set(adapter, [...(groups.get(adapter) ?? []), prepared]);
      }
    }
    return groups;
  }

  async #step(adapter: LoadedAdapter | undefined, group: readonly Prepared[]): Promise<void> {
    let ready = group;
    try {
      ready = this.#sideBySide(adapter, group);
      const inputs = ready.map(({ input }) => input);
      const result = await this.#runner.forward(inputs, { logits: "last", adapter, kind: "decode" });
      const { vocabSize } = this.#runner.config;
      for (const [index, { entry, input }] of ready.entries()) {
        const logits = result.logits.subarray(index * vocabSize, (index + 1) * vocabSize);
        await this.#advance(entry, ({ session }) => session.commit(input, result, index, "input"), logits);
      }
    } catch (error) {
      // A failed pass belongs to nobody in particular, so everyone in it fails.
      for (const { entry } of ready) this.#fail(entry, error);
    }
  }

  /** The next token of a generation that goes on; one that cannot fails alone. */
  async #prepare(entry: Entry): Promise<Prepared[]> {
    const { generation } = entry;
    if (generation.finished !== undefined) return [];
    try {
      await generation.session.beforeRun([generation.nextId]);
      return [{ entry, input: generation.session.nextInput([generation.nextId], "input") }];
    } catch (error) {
      this.#fail(entry, error);
      return [];
    }
  }

  async #advance(entry: Entry, commit: (generation: Generation) => Promise<void>, logits: Float32Array): Promise<void> {
    try {
      await commit(entry.generation);
      entry.generation.accept(logits);
    } catch (error) {
      this.#fail(entry, error);
    }
  }

  /** Puts the rows of a pass side by side in one store, so that no step copies them. @returns the group in that order */
  #sideBySide(adapter: LoadedAdapter | undefined, group: readonly Prepared[]): readonly Prepared[] {
    const batch = this.#batches.get(adapter) ?? new RowBatch();
    this.#batches.set(adapter, batch);
    const owners = new Map(group.map((prepared) => [prepared.input.past, prepared]));
    return batch.hold([...owners.keys()]).map((row) => owners.get(row) as Prepared);
  }

  #fail(entry: Entry, error: unknown): void {
    entry.generation.session.row.detach();
    this.#entries = this.#entries.filter((other) => other !== entry);
    entry.reject(error);
  }

  #settle(entry: Entry): boolean {
    if (entry.generation.finished === undefined) return false;
    entry.generation.session.row.detach();
    entry.resolve();
    return true;
  }
}
