/** @file Precis, through its public API. */
import { readFileSync } from "node:fs";
import type * as Precis from "../../dist/index.js";
import type { LanguageModel, LoadOptions, Memory } from "../../dist/index.js";
import { engineCache, prepareAdapter, prepareCheckpoint } from "../weights/prepare.js";
import { SMOLLM2_135M, type DecoderShape } from "../weights/shape.js";
import type { Answer, Conversation, Engine, TokenIds } from "./engine.js";

/** How long conversations are remembered. */
export interface MemorySettings {
  method: string;
  /** Options of the method, as `precis methods` lists them. */
  options: Readonly<Record<string, number | string | boolean>>;
  /** Tokens of one time step. */
  stepTokens: number;
}

/** How to load the model. */
export interface PrecisSettings extends Pick<LoadOptions, "dtype" | "threads" | "profilePrefix"> {
  memory: MemorySettings;
}

const root = new URL("../../../", import.meta.url);

/** The library as built in the repository's dist; its types come from the source tree's side, its code from the compiled one's. */
async function importPrecis(): Promise<typeof Precis> {
  return (await import(new URL("dist/index.js", root).href)) as typeof Precis;
}

function versionOf(path: string): string {
  return (JSON.parse(readFileSync(new URL(path, root), "utf8")) as { version: string }).version;
}

async function answer(memory: Memory, prompt: TokenIds, count: number, remember: boolean): Promise<Answer> {
  const tokenTimes: number[] = [];
  const startedAt = performance.now();
  const options = { maxTokens: count, temperature: 0, ignoreEos: true, remember };
  for await (const event of memory.generate(prompt, options)) {
    if (event.type === "text-delta" && event.tokenId !== undefined) tokenTimes.push(performance.now());
  }
  return { startedAt, tokenTimes };
}

/** Loads the benchmark checkpoint of a shape. */
export async function loadPrecisModel(
  settings: Omit<PrecisSettings, "memory">,
  shape: DecoderShape = SMOLLM2_135M,
): Promise<LanguageModel> {
  const { loadModel } = await importPrecis();
  const cacheDir = engineCache(shape);
  return loadModel(prepareCheckpoint(shape), { device: "cpu", offline: true, cacheDir, ...settings });
}

/** Precis with the benchmark model; a second copy holds the adapter, as adapters change the graph of the model they join. */
export class PrecisEngine implements Engine {
  readonly name = "precis";
  readonly details: Engine["details"];
  readonly #settings: PrecisSettings;
  readonly #model: LanguageModel;
  #conversing: LanguageModel | undefined;

  private constructor(model: LanguageModel, settings: PrecisSettings) {
    this.#model = model;
    this.#settings = settings;
    const { memory, threads, dtype } = settings;
    this.details = {
      version: versionOf("package.json"),
      onnxruntime: versionOf("node_modules/onnxruntime-node/package.json"),
      weights: dtype ?? "fp32",
      threads: threads ?? 0,
      memory: `${memory.method} ${JSON.stringify(memory.options)}, steps of ${memory.stepTokens} tokens`,
    };
  }

  static async load(settings: PrecisSettings): Promise<PrecisEngine> {
    const { memory: _, ...load } = settings;
    return new PrecisEngine(await loadPrecisModel(load), settings);
  }

  async generate(prompts: readonly TokenIds[], count: number): Promise<Answer[]> {
    const memories = await Promise.all(prompts.map(() => this.#model.createMemory({ method: "full" })));
    try {
      return await Promise.all(
        memories.map((memory, index) => answer(memory, prompts[index] as TokenIds, count, false)),
      );
    } finally {
      await Promise.all(memories.map((memory) => memory.dispose()));
    }
  }

  async converse(ids: TokenIds): Promise<Conversation> {
    const { memory: settings, ...load } = this.#settings;
    this.#conversing ??= await loadPrecisModel(load);
    const compresses = /ccm|gist/.test(settings.method);
    const memory = await this.#conversing.createMemory({
      method: settings.method,
      options: settings.options,
      ...(compresses ? { adapter: prepareAdapter() } : {}),
    });
    for (let start = 0; start < ids.length; start += settings.stepTokens) {
      await memory.append(ids.slice(start, start + settings.stepTokens));
    }
    const { slots } = await memory.stats();
    return { slots, answer: (prompt, count) => answer(memory, prompt, count, false) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#model.dispose();
    await this.#conversing?.dispose();
  }
}
