/**
 * @file Open-ended writing with a part of the cache taken away, while reading a long prompt and while going on with it,
 * against how the text really goes on. Ren et al. 2023, arXiv:2310.08152, section 4.
 */
import { SeededRandom } from "../../data/random.js";
import { PrecisError } from "../../errors.js";
import { findMethod } from "../../memory/registry.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { sizeOf, type Observation } from "../case.js";
import type { Entry, Found } from "../entry.js";
import { journaled } from "../journal.js";
import { distinct, repetition } from "../metrics/fluency.js";
import { bleu4, rougeL, wordsOf } from "../metrics/overlap.js";
import { cosine, meanHiddenState } from "../metrics/similarity.js";
import { countBy, nothingToDo, requireData, type EvaluationOptions } from "../options.js";
import { spread } from "../pool.js";
import { checkPercents, DEFAULT_PERCENTS } from "./sentinel.js";
import { readBlocks, type ProseBlock } from "./text-blocks.js";

/** Most tokens of a prompt and of what is written; half and a quarter of what the model takes, if that is less. */
const MOST_TOKENS = { prompt: 512, written: 256 } as const;

/** Prompts of a source unless told otherwise. */
const DEFAULT_PROMPTS = 16;

/** Sampling from the likeliest tokens, as the greedy choice of a small model soon repeats itself. */
const TOP_P = 0.9;

/** A prompt with the text that follows it. */
interface Prompt {
  block: ProseBlock;
  /** Its number, which seeds the sampling. */
  index: number;
  begin: readonly number[];
  prompt: readonly number[];
  reference: readonly number[];
  referenceText: string;
  /** [hidden] */
  referenceState: Float32Array;
}

/** Writes from every prompt under every method and share. */
export async function evaluateGeneration(
  options: EvaluationOptions,
  entries: readonly Entry[],
  tokenizer: Tokenizer,
): Promise<Found> {
  const { model, helpers = [], limit = DEFAULT_PROMPTS, seed = 0, journal, signal } = options;
  const percents = checkPercents(options.steps ?? DEFAULT_PERCENTS);
  const prompts = await readPrompts(options, tokenizer, limit);
  if (prompts.length === 0) throw nothingToDo(options, "stream");
  const jobs = entries.flatMap((entry, methodIndex) => {
    const total = prompts.length * percents.length;
    return prompts.flatMap((prompt, index) =>
      sharesOf(entry, percents).map((percent, place) => ({
        entry,
        methodIndex,
        prompt,
        percent,
        progress: { done: index * percents.length + place, total },
      })),
    );
  });
  const found = await spread(
    [model, ...helpers],
    jobs,
    async (worker, { entry, methodIndex, prompt, percent, progress }, either): Promise<Observation> => {
      options.onProgress?.({ method: entry.spec.label, methodIndex, ...progress });
      const other = entry.spec.shuffled ? strangerOf(prompts, prompt, entry) : prompt;
      const work = { model: worker, entry, percent, seed, prompt, read: other.prompt, signal: either };
      const key = JSON.stringify([entry.spec.label, prompt.block.id, percent]);
      const { value, seconds } = await journaled(journal, key, () => write(work));
      entry.result.seconds += seconds;
      return value;
    },
    signal,
  );
  const observed = entries.map((entry) => {
    const own = found.filter((_, index) => jobs[index]?.entry === entry);
    // What takes no share is the same at all of them.
    const everywhere = (observation: Observation): Observation[] => percents.map((step) => ({ ...observation, step }));
    const fixed = sharesOf(entry, percents).length < percents.length;
    return { result: entry.result, observations: fixed ? own.flatMap(everywhere) : own };
  });
  return { primary: "rouge", sources: countBy(prompts.map(({ block }) => block.source)), observed };
}

/** The shares that change anything for a method. */
function sharesOf({ result }: Entry, percents: readonly number[]): readonly number[] {
  return Object.hasOwn(findMethod(result.method).options, "ratio") ? percents : percents.slice(0, 1);
}

async function readPrompts(options: EvaluationOptions, tokenizer: Tokenizer, limit: number): Promise<Prompt[]> {
  const { model, seed = 0, only, signal } = options;
  const { maxPositions } = model.info;
  const promptTokens = Math.min(MOST_TOKENS.prompt, Math.floor(maxPositions / 2));
  const written = Math.min(MOST_TOKENS.written, Math.floor(maxPositions / 4));
  const dataDir = requireData(options);
  const blocks = await readBlocks(tokenizer, { dataDir, tokens: promptTokens + written, limit, seed, only, signal });
  const begin = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  const prompts: Prompt[] = [];
  for (const [index, block] of blocks.entries()) {
    const reference = block.ids.slice(promptTokens);
    const referenceState = await meanHiddenState(model, reference, begin, signal);
    const referenceText = await model.detokenize(reference);
    prompts.push({
      block,
      index,
      begin,
      prompt: block.ids.slice(0, promptTokens),
      reference,
      referenceText,
      referenceState,
    });
  }
  return prompts;
}

/** Another prompt than the one whose continuation is wanted, of the same source if there is one. */
function strangerOf(prompts: readonly Prompt[], own: Prompt, { spec }: Entry): Prompt {
  const others = prompts.filter((prompt) => prompt !== own);
  const alike = others.filter(({ block }) => block.source === own.block.source);
  const candidates = alike.length > 0 ? alike : others;
  if (candidates.length > 0) return candidates[own.index % candidates.length] as Prompt;
  throw new PrecisError("OPTION_INVALID", "There is no other prompt that could be shuffled in.", {
    value: spec.label,
    nextStep: "Evaluate more prompts, or leave shuffled out.",
  });
}

interface Writing {
  model: LanguageModel;
  entry: Entry;
  percent: number;
  seed: number;
  prompt: Prompt;
  /** What is read; the prompt's own text, unless memories are shuffled. */
  read: readonly number[];
  signal: AbortSignal;
}

/** One continuation and what is to be said of it. */
async function write({ model, entry, percent, seed, prompt, read, signal }: Writing): Promise<Observation> {
  const { block, index, begin, reference, referenceText, referenceState } = prompt;
  const { memory: choice } = entry.spec;
  const specs = findMethod(choice.method).options;
  // Only two policies of sentinel spans follow a share; the other one takes an adapter that was trained for it.
  const isRecent = entry.result.options["policy"] === "recent";
  const policy = Object.hasOwn(specs, "policy") && !isRecent ? { policy: "every" } : {};
  const ratio = Object.hasOwn(specs, "ratio") ? { ratio: percent / 100 } : {};
  await using memory = await model.createMemory({ ...choice, options: { ...policy, ...choice.options, ...ratio } });
  const random = new SeededRandom(seed, "writing", block.id, index);
  const { text, tokenIds, stats } = await memory.answer(read, {
    maxTokens: reference.length,
    ignoreEos: true,
    temperature: 1,
    topP: TOP_P,
    seed: random.between(0, 2 ** 31),
    signal,
  });
  const peakSlots = await memory.peakSlots();
  const words = wordsOf(text);
  const referenceWords = wordsOf(referenceText);
  const state = await meanHiddenState(model, tokenIds, begin, signal);
  await using judge = await model.createMemory({ method: "full" });
  const [judged] = await judge.likelihoods([{ input: prompt.prompt, continuations: [tokenIds] }], { signal });
  const contextTokens = read.length + tokenIds.length;
  return {
    step: percent,
    stratum: block.source,
    cluster: block.id,
    memory: sizeOf({ slots: stats.slots, peakSlots, contextTokens }, model.info.bytesPerSlot),
    nll: -(judged?.logProbabilities[0] as number),
    tokens: tokenIds.length,
    scores: {
      bleu: bleu4(words, referenceWords),
      rouge: rougeL(words, referenceWords),
      similarity: cosine(state, referenceState),
      distinct: distinct(words, 2),
      repetition: repetition(words),
    },
  };
}
