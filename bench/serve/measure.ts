/** @file Measures answering: how many samples per second, one at a time and as many at once as a budget holds. */
import type * as Precis from "../../dist/index.js";
import { batchesFor, largestBatch, peakSlots, type BatchLimit } from "./capacity.js";
import type { Samples } from "./samples.js";

/** One way of keeping contexts. */
export interface MethodSetup {
  name: string;
  /** Folder of its adapter. */
  adapter?: string;
}

/** What to measure. */
export interface ServeSettings {
  /** Bytes of keys and values. */
  budgets: readonly number[];
  /** Most samples that are answered at once, whatever the budget. */
  cap: number;
  /** Tokens of an answer. */
  answerTokens: number;
  /** Samples of one measurement at least. */
  samples: number;
  rounds: number;
}

/** A method that remembers every context and can be asked. */
export interface Contestant {
  name: string;
  /** One memory per context. */
  memories: Precis.Memory[];
  questions: readonly (readonly number[])[];
  answerTokens: number;
  /** Of the longest context. */
  contextTokens: number;
  contextSlots: number;
  /** Most bytes of keys and values that answering a sample needs: memory, input and answer. */
  sampleBytes: number;
}

/** Rates of one method at one budget, a value per round; none where not even one sample fits. */
export interface BudgetRates extends BatchLimit {
  budgetBytes: number;
  rates: number[];
  /** Processor time of a sample in milliseconds, of all cores together: what other programs disturb less. */
  cpuMs: number[];
}

/** Everything about one method. */
export interface MethodResult {
  method: string;
  contextTokens: number;
  contextSlots: number;
  sampleBytes: number;
  /** Samples per second, one after another, per round. */
  alone: number[];
  /** Share of that time in which the question was read, per round. */
  reading: number[];
  together: BudgetRates[];
}

/** Reads every context into a memory of its own. */
export async function prepare(
  model: Precis.LanguageModel,
  { name, adapter }: MethodSetup,
  { contexts, questions }: Samples,
  answerTokens: number,
): Promise<Contestant> {
  const memories: Precis.Memory[] = [];
  let [contextTokens, contextSlots] = [0, 0];
  for (const steps of contexts) {
    const memory = await model.createMemory({ method: name, adapter });
    for (const step of steps) await memory.append(step);
    const { tokensSeen, slots } = await memory.stats();
    [contextTokens, contextSlots] = [Math.max(contextTokens, tokensSeen), Math.max(contextSlots, slots)];
    memories.push(memory);
  }
  const inputTokens = Math.max(...questions.map(({ length }) => length));
  const slots = peakSlots({ memorySlots: contextSlots, inputTokens, answerTokens });
  const sampleBytes = slots * model.info.bytesPerSlot;
  return { name, memories, questions, answerTokens, contextTokens, contextSlots, sampleBytes };
}

/** How long answers took. */
interface Answering {
  seconds: number;
  /** Spent on reading questions; where several wait for each other, the waiting counts too. */
  readingSeconds: number;
  /** Processor time, of all cores together. */
  cpuSeconds: number;
}

/** Answers a batch. Memories are forked before the clock starts and freed after it stops. */
async function answerTogether(contestant: Contestant, batch: number): Promise<Answering> {
  const { memories, questions, answerTokens } = contestant;
  const samples = await Promise.all(
    Array.from({ length: batch }, (_, index) => (memories[index % memories.length] as Precis.Memory).fork()),
  );
  const options = { maxTokens: answerTokens, temperature: 0, ignoreEos: true, remember: false };
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  const answers = await Promise.all(
    samples.map((memory, index) => memory.answer(questions[index % questions.length] as readonly number[], options)),
  );
  const seconds = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  await Promise.all(samples.map((memory) => memory.dispose()));
  const cut = answers.find(({ tokenIds }) => tokenIds.length !== answerTokens);
  if (cut !== undefined) throw new Error(`An answer of ${contestant.name} has ${cut.tokenIds.length} tokens.`);
  const readingSeconds = answers.reduce((sum, { timings }) => sum + timings.promptMs / 1000, 0);
  return { seconds, readingSeconds, cpuSeconds: (user + system) / 1e6 };
}

/** What answering came to, over as many batches as make up the wanted number of samples. */
interface Rate {
  /** Samples per second. */
  rate: number;
  /** Share of the time in which the question was read. */
  reading: number;
  /** Processor time of a sample, in milliseconds. */
  cpuMs: number;
}

async function rateOf(contestant: Contestant, batch: number, wantedSamples: number): Promise<Rate> {
  const batches = batchesFor(wantedSamples, batch);
  let [seconds, readingSeconds, cpuSeconds] = [0, 0, 0];
  for (let index = 0; index < batches; index++) {
    const answering = await answerTogether(contestant, batch);
    seconds += answering.seconds;
    readingSeconds += answering.readingSeconds;
    cpuSeconds += answering.cpuSeconds;
  }
  const count = batches * batch;
  return { rate: count / seconds, reading: readingSeconds / seconds, cpuMs: (1000 * cpuSeconds) / count };
}

/** Lets the methods take turns, each round in another order. Budgets that allow the same batch share its rates. */
export async function measure(
  contestants: readonly Contestant[],
  { budgets, cap, samples, rounds }: ServeSettings,
  onRound: (round: number) => void,
): Promise<MethodResult[]> {
  const results = contestants.map(({ name, contextTokens, contextSlots, sampleBytes }) => ({
    method: name,
    contextTokens,
    contextSlots,
    sampleBytes,
    alone: [] as number[],
    reading: [] as number[],
    together: budgets.map((budgetBytes) => ({
      budgetBytes,
      ...largestBatch(budgetBytes, sampleBytes, cap),
      rates: [] as number[],
      cpuMs: [] as number[],
    })),
  }));
  // The first runs of a model are slow.
  for (const contestant of contestants) await answerTogether(contestant, 2);
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contestants.length; turn++) {
      const index = (round + turn) % contestants.length;
      const [contestant, result] = [contestants[index] as Contestant, results[index] as MethodResult];
      const alone = await rateOf(contestant, 1, samples);
      result.alone.push(alone.rate);
      result.reading.push(alone.reading);
      const measured = new Map([[1, alone]]);
      for (const { batch, rates, cpuMs } of result.together) {
        if (batch === 0) continue;
        const rate = measured.get(batch) ?? (await rateOf(contestant, batch, samples));
        measured.set(batch, rate);
        rates.push(rate.rate);
        cpuMs.push(rate.cpuMs);
      }
    }
    onRound(round + 1);
  }
  return results;
}
