/** @file The endless supply of training episodes: any one can be made without those before it. */
import { PrecisError } from "../errors.js";
import type { ChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { throwIfAborted } from "../weights/files.js";
import { ChatPieces } from "./chat-pieces.js";
import { SETTINGS, type Episode, type Setting } from "./episode.js";
import { SeededRandom } from "./random.js";
import { DRAWS, type Draw, type EpisodeLimits } from "./settings/draws.js";
import { materialOf, type Material } from "./settings/material.js";
import { listSources, loadSource, type LoadedSource } from "./sources.js";

/** What to sample from, and how. */
export interface SampleOptions extends Partial<EpisodeLimits> {
  /** A folder or file of data; see `listSources`. */
  dataDir: string;
  tokenizer: Tokenizer;
  template: ChatTemplate;
  /** How often each setting comes up, in any unit; default {@link DEFAULT_MIXTURE}, as far as there is data. */
  weights?: Partial<Record<Setting, number>>;
  /** Default 0. */
  seed?: number;
  /** Default "train". */
  split?: "train" | "dev";
  /** Index of the first episode, to go on where a run was left. Default 0. */
  start?: number;
  /** Also sources that may only be used for research; see `isResearchOnly`. Default false. */
  includeResearchOnly?: boolean;
  /** Only sources of these names. */
  only?: readonly string[];
  /** No sources of these names. */
  without?: readonly string[];
  /** Take texts as plain blocks of this many tokens, without steps. */
  blockTokens?: number | undefined;
  signal?: AbortSignal;
}

/** Shares of the settings unless told otherwise. */
export const DEFAULT_MIXTURE: Readonly<Record<Setting, number>> = {
  conversation: 0.45,
  icl: 0.3,
  personal: 0.1,
  stream: 0.15,
};

/** Limits unless told otherwise: those of the paper, but for the total, which leaves room for COMP tokens. */
export const DEFAULT_LIMITS: EpisodeLimits = {
  maxTokens: 768,
  minSteps: 1,
  maxSteps: 16,
  maxStepTokens: 128,
  streamStepTokens: 64,
  randomLabels: 0.5,
  inventedTasks: 0,
};

/** Fewest origins of texts that tasks can be invented from. */
const LEAST_MATERIAL = 2;

/** Draws tried for one episode before giving up. */
const MOST_DRAWS = 500;

type SourcesOf = { [Kind in Setting]?: readonly LoadedSource<Kind>[] };

/** Training episodes by index. Equal options give equal episodes, whatever was sampled before. */
export class EpisodeSampler {
  readonly #pieces: ChatPieces;
  readonly #limits: EpisodeLimits;
  readonly #seed: string;
  readonly #sources: SourcesOf;
  readonly #weights: readonly number[];
  readonly #blockTokens: number | undefined;
  readonly #material: readonly Material[];

  private constructor(
    options: SampleOptions,
    sources: SourcesOf,
    weights: readonly number[],
    material: readonly Material[],
  ) {
    this.#pieces = new ChatPieces(options.tokenizer, options.template);
    this.#limits = limitsOf(options);
    this.#seed = `${options.seed ?? 0}/${options.split ?? "train"}`;
    this.#sources = sources;
    this.#weights = weights;
    this.#blockTokens = options.blockTokens;
    this.#material = material;
  }

  /**
   * Reads the data.
   * @throws FILE_NOT_FOUND, FILE_INVALID, OPTION_INVALID, ABORTED
   */
  static async open(options: SampleOptions): Promise<EpisodeSampler> {
    limitsOf(options);
    const { dataDir, split = "train", weights = DEFAULT_MIXTURE, signal } = options;
    const wanted = SETTINGS.filter((setting) => (weights[setting] ?? 0) > 0);
    const invents = (options.inventedTasks ?? 0) > 0 && wanted.includes("icl");
    const loaded: LoadedSource[] = [];
    for (const source of await listSources(dataDir, options)) {
      throwIfAborted(signal, "Reading the data");
      // Tasks on the list of held-out ones are not even read.
      if (!(invents || wanted.includes(source.setting)) || source.split === "test") continue;
      const part = await loadSource(source, split);
      if (part.records.length > 0) loaded.push(part);
    }
    const sources: Partial<Record<Setting, LoadedSource[]>> = {};
    for (const source of loaded) (sources[source.setting] ??= []).push(source);
    const missing = wanted.filter((setting) => sources[setting] === undefined);
    if (missing.length === wanted.length || (options.weights !== undefined && missing.length > 0)) {
      throw new PrecisError(
        "OPTION_INVALID",
        `There are no ${split} data for ${missing.join(", ") || "any setting"}.`,
        {
          value: dataDir,
          nextStep: "Change the weights of the settings, or the folder; research-only sources are left out by default.",
        },
      );
    }
    const present = SETTINGS.map((setting) => (sources[setting] === undefined ? 0 : (weights[setting] ?? 0)));
    const material = invents ? materialOf(loaded) : [];
    if (invents && material.length < LEAST_MATERIAL) {
      throw new PrecisError("OPTION_INVALID", "There is too little text to invent tasks from.", {
        value: dataDir,
        nextStep: "Add dialogues, tasks or long texts to the data, or leave invented tasks out.",
      });
    }
    return new EpisodeSampler(options, sources as SourcesOf, present, material);
  }

  /** Names and sizes of what is sampled from. */
  get sources(): { name: string; setting: Setting; records: number }[] {
    const all = Object.values(this.#sources).flat();
    return all.map(({ name, setting, records }) => ({ name, setting, records: records.length }));
  }

  /**
   * The episode of this index.
   * @throws OPTION_INVALID if the limits are such that nothing fits
   */
  at(index: number): Episode {
    const random = new SeededRandom(this.#seed, "episode", index);
    const setting = SETTINGS[random.weighted(this.#weights)] as Setting;
    const sources = this.#sources[setting] as readonly LoadedSource[];
    const shares = sources.map((source) => shareOf(source));
    const draw = DRAWS[setting] as Draw<Setting>;
    const shared = { pieces: this.#pieces, limits: this.#limits, material: this.#material };
    const context = { ...shared, random, blockTokens: this.#blockTokens };
    for (let tries = 0; tries < MOST_DRAWS; tries++) {
      const { name, records } = sources[random.weighted(shares)] as LoadedSource;
      const episode = draw(context, name, records);
      if (episode !== undefined) return episode;
    }
    throw new PrecisError("OPTION_INVALID", `No ${setting} episode of the data fits the limits.`, {
      value: this.#limits,
      nextStep: "Raise maxTokens or maxStepTokens, or lower minSteps.",
    });
  }
}

/** Tasks come up equally often; of other sources the large ones more often, but not in proportion. */
function shareOf({ setting, records }: LoadedSource): number {
  return setting === "icl" ? 1 : Math.sqrt(records.length);
}

function limitsOf(options: SampleOptions): EpisodeLimits {
  const limits = { ...DEFAULT_LIMITS };
  for (const name of Object.keys(limits) as (keyof EpisodeLimits)[]) limits[name] = options[name] ?? limits[name];
  const { randomLabels, inventedTasks, ...counts } = limits;
  for (const [name, value] of Object.entries(counts)) {
    if (Number.isInteger(value) && value >= 1) continue;
    throw new PrecisError("OPTION_INVALID", `${name} must be a whole number from 1 on and is ${value}.`, { value });
  }
  for (const [name, value] of Object.entries({ randomLabels, inventedTasks })) {
    if (value >= 0 && value <= 1) continue;
    throw new PrecisError("OPTION_INVALID", `${name} must be from 0 to 1 and is ${value}.`, { value });
  }
  return limits;
}

/**
 * Training episodes from index `start` on, without end. Deterministic: stopping at any index and starting again there
 * gives the same ones.
 */
export async function* sampleEpisodes(options: SampleOptions): AsyncGenerator<Episode, void, void> {
  const sampler = await EpisodeSampler.open(options);
  for (let index = options.start ?? 0; ; index++) {
    throwIfAborted(options.signal, "Sampling");
    yield sampler.at(index);
  }
}
