/**
 * @file Likelihoods of continuations given a session, many in one run: inputs and their continuations side by side as a
 * tree of tokens, each of which sees only its own line. The session stays as it was.
 */
import { PrecisError } from "../errors.js";
import { PREFILL_CHUNK, type MemorySession } from "../memory/session.js";
import type { Continuations, Likelihoods } from "./protocol.js";
import { logProbability } from "./sampler.js";

/** Most tokens of a tree of several continuations: more would spend more on pairs that do not see each other than they save. */
const TREE_TOKENS = 256;

/** The continuations `from` to `to` of one input, which share a tree. */
interface Branches {
  question: number;
  from: number;
  to: number;
  tokens: number;
}

/**
 * Log-probabilities of all continuations.
 * @param check called before each run; throws to stop
 * @throws INPUT_INVALID for an empty input or continuation or an unknown token; CONTEXT_OVERFLOW
 */
export async function likelihoods(
  session: MemorySession,
  asked: readonly Continuations[],
  check: () => void = () => undefined,
): Promise<Likelihoods[]> {
  for (const question of asked) checkIds(question, session.runner.config.vocabSize);
  const results = asked.map(({ continuations }) => ({
    logProbabilities: continuations.map(() => 0),
    peakSlots: session.peakSlots,
  }));
  const { whole, stepwise } = plan(session, asked);
  for (const tree of whole) {
    check();
    await readTree(session, asked, tree, results);
  }
  for (const question of stepwise) {
    const { input, continuations } = asked[question] as Continuations;
    results[question] = await readStepwise(session, input, continuations, check);
  }
  return results;
}

/** Which continuations are read together, and which inputs must be read token by token since the method acts meanwhile. */
function plan(
  session: MemorySession,
  asked: readonly Continuations[],
): { whole: Branches[][]; stepwise: readonly number[] } {
  const { behavior } = session;
  const runLength = behavior.beforeRun === undefined ? (behavior.runLength?.(session) ?? Infinity) : 0;
  const whole: Branches[][] = [];
  const stepwise: number[] = [];
  let room = 0;
  for (const [question, { input, continuations }] of asked.entries()) {
    if (longestLine(input, continuations) > Math.min(runLength, PREFILL_CHUNK)) {
      stepwise.push(question);
      continue;
    }
    let branches: Branches = { question, from: 0, to: 0, tokens: input.length };
    const place = (): void => {
      if (branches.tokens > room) {
        whole.push([]);
        room = TREE_TOKENS;
      }
      whole.at(-1)?.push(branches);
      room -= branches.tokens;
    };
    for (const [index, ids] of continuations.entries()) {
      const added = ids.length - 1;
      if (branches.to > branches.from && branches.tokens + added > TREE_TOKENS) {
        place();
        branches = { question, from: index, to: index, tokens: input.length };
      }
      branches.tokens += added;
      branches.to = index + 1;
    }
    place();
  }
  return { whole, stepwise };
}

/** Tokens that are run one after another: the last one of a continuation is only looked up. */
function longestLine(input: readonly number[], continuations: readonly (readonly number[])[]): number {
  return input.length - 1 + Math.max(1, ...continuations.map((ids) => ids.length));
}

/** Runs one tree and adds its results. */
async function readTree(
  session: MemorySession,
  asked: readonly Continuations[],
  tree: readonly Branches[],
  results: Likelihoods[],
): Promise<void> {
  const ids: number[] = [];
  const offsets: number[] = [];
  // Lines are numbered through the tree; a token of a continuation sees its own line and that of its input.
  const line: number[] = [];
  const trunk: number[] = [];
  const rows: number[] = [];
  const lookups: { row: number; id: number; question: number; index: number }[] = [];
  let lines = 0;
  const add = (tokens: readonly number[], offset: number, stem: number | undefined): number => {
    const own = lines++;
    for (const [place, id] of tokens.entries()) {
      ids.push(id);
      offsets.push(offset + place);
      line.push(own);
      trunk.push(stem ?? own);
    }
    return own;
  };
  for (const { question, from, to } of tree) {
    const { input, continuations } = asked[question] as Continuations;
    const stem = add(input, 0, undefined);
    const firstRow = rows.push(ids.length - 1) - 1;
    for (let index = from; index < to; index++) {
      const continuation = continuations[index] as readonly number[];
      const before = ids.length;
      add(continuation.slice(0, -1), input.length, stem);
      for (const [place, id] of continuation.entries()) {
        const row = place === 0 ? firstRow : rows.push(before + place - 1) - 1;
        lookups.push({ row, id, question, index });
      }
    }
    const result = results[question] as Likelihoods;
    const demand = session.demand(longestLine(input, continuations.slice(from, to)));
    result.peakSlots = Math.max(result.peakSlots, demand);
  }
  const sees = (query: number, key: number): boolean => line[key] === line[query] || line[key] === trunk[query];
  const { runner, textAdapter: adapter } = session;
  const { logits } = await runner.forward([session.nextInput(ids, "input", { offsets, sees })], {
    logits: [rows],
    adapter,
  });
  const { vocabSize } = runner.config;
  for (const { row, id, question, index } of lookups) {
    const { logProbabilities } = results[question] as Likelihoods;
    const found = logProbability(logits.subarray(row * vocabSize, (row + 1) * vocabSize), id);
    logProbabilities[index] = (logProbabilities[index] as number) + found;
  }
}

/** Feeds copies of the session, for methods that drop or compress slots while tokens come in. */
async function readStepwise(
  session: MemorySession,
  input: readonly number[],
  continuations: readonly (readonly number[])[],
  check: () => void,
): Promise<Likelihoods> {
  const reader = session.fork();
  let first = new Float32Array(0);
  const purpose = "input";
  await reader.feed(input, { purpose, logits: "last", check, onLogits: (logits) => (first = logits.slice()) });
  const { vocabSize } = session.runner.config;
  const logProbabilities: number[] = [];
  let { peakSlots } = reader;
  for (const ids of continuations) {
    let sum = logProbability(first, ids[0] as number);
    if (ids.length > 1) {
      const branch = reader.fork();
      const onLogits = (logits: Float32Array, start: number): void => {
        for (let token = 0; token * vocabSize < logits.length; token++) {
          const row = logits.subarray(token * vocabSize, (token + 1) * vocabSize);
          sum += logProbability(row, ids[start + token + 1] as number);
        }
      };
      await branch.feed(ids.slice(0, -1), { purpose, logits: "all", check, onLogits });
      peakSlots = Math.max(peakSlots, branch.peakSlots);
    }
    logProbabilities.push(sum);
  }
  return { logProbabilities, peakSlots };
}

function checkIds({ input, continuations }: Continuations, vocabSize: number): void {
  const empty = [input, ...continuations].find((ids) => ids.length === 0);
  const bad = [input, ...continuations].flat().find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (empty === undefined && bad === undefined) return;
  const problem =
    empty === undefined
      ? `Token id ${bad} is outside the vocabulary of ${vocabSize}.`
      : "An input or a continuation is empty.";
  throw new PrecisError("INPUT_INVALID", problem, { value: bad ?? empty, nextStep: "Pass token ids of the model." });
}
