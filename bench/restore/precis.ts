/** @file Sessions of Precis: their snapshots, and the appending of their history. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { LanguageModel, Memory, SnapshotPrecision } from "../../dist/index.js";
import type { TokenIds } from "../engines/engine.js";
import { fitHistory, type Contestant, type NextToken, type SavedSession, type Session } from "./contestant.js";

/** The memories that are compared; `full` is read at once and only as far as the context goes. */
export const METHODS = ["full", "ccm-concat", "ccm-merge", "streaming-ccm"] as const;

/** Name of a compared memory. */
export type Method = (typeof METHODS)[number];

const PRECISIONS: readonly SnapshotPrecision[] = ["fp32", "fp16", "int8"];

async function nextToken(memory: Memory, prompt: TokenIds): Promise<number> {
  const options = { maxTokens: 1, temperature: 0, ignoreEos: true, remember: false };
  for await (const event of memory.generate(prompt, options)) {
    if (event.type === "text-delta" && event.tokenId !== undefined) return event.tokenId;
  }
  throw new Error("The model gave no token.");
}

/** One memory method on a loaded model, which stays the caller's. */
export class PrecisSession implements Contestant {
  readonly engine = "precis";
  readonly memory: Method;
  readonly #model: LanguageModel;
  readonly #adapter: string | undefined;
  readonly #session: Session;
  #current: Memory | undefined;

  /** @param adapter folder of the adapter, for methods that compress */
  constructor(model: LanguageModel, method: Method, adapter: string | undefined, session: Session) {
    this.memory = method;
    this.#model = model;
    this.#adapter = adapter;
    const history = method === "full" ? fitHistory(session, model.info.maxPositions) : session.history;
    this.#session = { ...session, history, stepTokens: method === "full" ? history.length : session.stepTokens };
  }

  get tokens(): number {
    return this.#session.history.length;
  }

  async reread(): Promise<NextToken> {
    await this.#current?.dispose();
    const { history, stepTokens, prompt } = this.#session;
    const startedAt = performance.now();
    this.#current = await this.#model.createMemory({ method: this.memory, adapter: this.#adapter });
    for (let start = 0; start < history.length; start += stepTokens) {
      await this.#current.append(history.slice(start, start + stepTokens));
    }
    const token = await nextToken(this.#current, prompt);
    return { token, milliseconds: performance.now() - startedAt };
  }

  async slots(): Promise<number> {
    return (await this.#read().stats()).slots;
  }

  async save(folder: string): Promise<SavedSession[]> {
    const saved: SavedSession[] = [];
    for (const precision of PRECISIONS) {
      const path = join(folder, `${this.memory}-${precision}.snapshot`);
      const bytes = await this.#read().snapshot({ precision });
      await writeFile(path, bytes);
      saved.push({ format: precision, bytes: bytes.byteLength, restore: () => this.#restore(path) });
    }
    return saved;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#current?.dispose();
  }

  async #restore(path: string): Promise<NextToken> {
    const startedAt = performance.now();
    const memory = await this.#model.restoreMemory(await readFile(path), { adapter: this.#adapter, consume: true });
    const token = await nextToken(memory, this.#session.prompt);
    const milliseconds = performance.now() - startedAt;
    await memory.dispose();
    return { token, milliseconds };
  }

  #read(): Memory {
    if (this.#current === undefined) throw new Error("The history was not read yet.");
    return this.#current;
  }
}
