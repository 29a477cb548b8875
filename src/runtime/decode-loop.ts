/** @file Decodes all running generations together, one token each per step, whatever their lengths and methods. */
import { KvRow } from "../cache/kv-row.js";
import type { DecoderRunner, SequenceInput } from "./decoder-runner.js";
import type { Generation } from "./generation.js";

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

/** Slots of room that a shared store gets beyond its longest row, so that it need not grow at once. */
const SPARE_SLOTS = 64;

/** Generations join when their prompt has been read and leave when they finish; each step is one forward pass per adapter. */
export class DecodeLoop {
  readonly #runner: DecoderRunner;
  #entries: Entry[] = [];
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
      for (const group of this.#groups()) await this.#step(group);
      this.#entries = this.#entries.filter((entry) => !this.#settle(entry));
    }
    this.#running = false;
  }

  /** Entries that can share a forward pass: those with the same adapter. */
  #groups(): Entry[][] {
    const groups = new Map<unknown, Entry[]>();
    for (const entry of this.#entries) {
      const key = entry.generation.session.textAdapter;
      groups.set(key, [...(groups.get(key) ?? []), entry]);
    }
    return [...groups.values()];
  }

  async #step(group: readonly Entry[]): Promise<void> {
    const ready: Prepared[] = [];
    for (const entry of group) ready.push(...(await this.#prepare(entry)));
    if (ready.length === 0) return;
    try {
      this.#share(ready.map(({ input }) => input.past));
      const { textAdapter: adapter } = (ready[0] as Prepared).entry.generation.session;
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

  /** Puts rows side by side in one store, so that no step copies them; a lone row goes back to its own. */
  #share(rows: readonly KvRow[]): void {
    const [first] = rows as [KvRow, ...KvRow[]];
    if (rows.length === 1) return first.detach();
    const together =
      first.store.batch === rows.length && rows.every((row, index) => row.store === first.store && row.index === index);
    if (!together) KvRow.gather(rows, SPARE_SLOTS);
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
