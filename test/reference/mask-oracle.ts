/**
 * @file What the parallel forward's arrays must be, found position by position from the token ids alone and the rules
 * in the golden notes. Slow, and written without looking at `src/train`.
 */

/** A mode as the oracle needs it. */
export interface OracleMode {
  method: "concat" | "merge" | "gist" | "compressive" | "full" | "none";
  recursive: boolean;
  compTokens: number;
  sink: boolean;
  vocabSize: number;
  bosId: number;
  decay?: number;
}

/** A padded row: `real[i]` is false at pads. */
export interface OracleRow {
  ids: readonly number[];
  real: readonly boolean[];
}

/** The id of SUM_0. */
export const firstSum = (mode: OracleMode): number =>
  mode.vocabSize + (mode.method === "compressive" ? 0 : mode.compTokens);
const isNew = (id: number, mode: OracleMode): boolean => id >= mode.vocabSize;
const isComp = (id: number, mode: OracleMode): boolean => isNew(id, mode) && id < firstSum(mode);
const isSum = (id: number, mode: OracleMode): boolean => id >= firstSum(mode);

/** The tokens of a time step that pooling takes in: all but sinks. */
function pooled(chunk: readonly number[], mode: OracleMode): number[] {
  return chunk.filter((id) => !(mode.sink && id === mode.bosId));
}

/** Tokens of a sample, from the table of layouts. */
export function oracleTokens(chunks: readonly number[][], input: readonly number[], mode: OracleMode): number[] {
  const comp = Array.from({ length: mode.compTokens }, (_, k) => mode.vocabSize + k);
  const sum = comp.map((id) => id - mode.vocabSize + firstSum(mode));
  const any = chunks.length > 0;
  const name =
    mode.method + (mode.recursive && ["concat", "merge", "compressive"].includes(mode.method) ? "_recur" : "");
  switch (name) {
    case "concat":
    case "concat_recur":
      return [...chunks.flatMap((chunk) => [...chunk, ...comp]), ...input];
    case "merge_recur":
      return [...chunks.flatMap((chunk) => [...chunk, ...comp, ...sum]), ...input];
    case "merge":
      return [...chunks.flatMap((chunk) => [...chunk, ...comp]), ...(any ? sum : []), ...input];
    case "gist":
      return [...chunks.flat(), ...(any ? comp : []), ...input];
    case "compressive":
    case "compressive_recur":
      return [...chunks.flatMap((chunk) => [...chunk, ...sum.slice(0, pooled(chunk, mode).length)]), ...input];
    case "full":
      return [...chunks.flat(), ...input];
    default:
      return [...input];
  }
}

/**
 * Number of blocks that end before position `i`. A block ends after its last COMP; in merge_recur after its last SUM; in
 * compressive, where short steps have fewer of them, with a run of SUM.
 */
function blockOf({ ids }: OracleRow, i: number, mode: OracleMode): number {
  if (mode.method === "compressive") {
    return Array.from({ length: i }, (_, j) => j).filter((j) => isSum(ids[j], mode) && !isSum(ids[j + 1] ?? 0, mode))
      .length;
  }
  const last = mode.vocabSize + mode.compTokens * (mode.method === "merge" && mode.recursive ? 2 : 1) - 1;
  let ended = 0;
  for (let j = 0; j < i; j++) if (ids[j] === last) ended++;
  return ended;
}

/** Whether row position `i` attends to column position `j`. */
export function oracleAttends(row: OracleRow, i: number, j: number, mode: OracleMode): boolean {
  const { ids, real } = row;
  if (!real[i] || !real[j] || j > i) return false;
  if (mode.method === "full" || mode.method === "none") return true;
  if (mode.sink && ids[j] === mode.bosId) return true;
  const [from, to] = [blockOf(row, i, mode), blockOf(row, j, mode)];
  const inInput = from === blockOf(row, ids.length, mode) && !isSum(ids[i], mode);
  if (mode.method === "merge" && !mode.recursive) {
    if (isSum(ids[i], mode)) return isSum(ids[j], mode) || isComp(ids[j], mode);
    return from === to;
  }
  if (from === to) return true;
  if (mode.method === "gist") return isComp(ids[j], mode) && to === from - 1;
  if (mode.method === "merge") return isSum(ids[j], mode) && to === from - 1;
  if (mode.method === "compressive") return isSum(ids[j], mode) && (mode.recursive || inInput);
  return isComp(ids[j], mode) && (mode.recursive || inInput);
}

/** The position id of position `i`: text counts text only; COMP_k and SUM_k come k + 1 after the last text. */
export function oraclePosition({ ids, real }: OracleRow, i: number, mode: OracleMode): number {
  if (!real[i]) return 1;
  let text = 0;
  for (let j = 0; j < i; j++) if (real[j] && !isNew(ids[j], mode)) text++;
  return isNew(ids[i], mode) ? text + ((ids[i] - mode.vocabSize) % mode.compTokens) : text;
}

/** Pooling: which of the step's `count` slots its `index`-th of `length` tokens goes to. */
const slotOf = (index: number, length: number, count: number): number => Math.ceil(((index + 1) * count) / length) - 1;

/** The weight of token `j` in the mean that replaces SUM token `i`: one over the tokens that share its slot. */
function oraclePooling(row: OracleRow, i: number, j: number, mode: OracleMode): number {
  const { ids, real } = row;
  const inBlock = ids.flatMap((_, at) => (real[at] && blockOf(row, at, mode) === blockOf(row, i, mode) ? [at] : []));
  const sums = inBlock.filter((at) => isSum(ids[at], mode));
  const tokens = inBlock.filter((at) => !isNew(ids[at], mode) && !(mode.sink && ids[at] === mode.bosId));
  const mine = tokens.filter((_, index) => slotOf(index, tokens.length, sums.length) === ids[i] - firstSum(mode));
  return mine.includes(j) ? 1 / mine.length : 0;
}

/** The weight of column `j` in the average that replaces row `i`; merging: found by running the online update. */
export function oracleAverage(row: OracleRow, i: number, j: number, mode: OracleMode): number {
  const { ids, real } = row;
  if (mode.method === "compressive") return real[i] && isSum(ids[i], mode) ? oraclePooling(row, i, j, mode) : 0;
  const k = ids[i] - firstSum(mode);
  if (mode.method !== "merge" || !real[i] || k < 0 || ids[j] !== mode.vocabSize + k || j > i) return 0;
  let weight = 0;
  let step = 0;
  for (let column = 0; column < i; column++) {
    if (ids[column] !== mode.vocabSize + k) continue;
    step++;
    const fresh = step === 1 ? 1 : (mode.decay ?? 1 / step);
    weight = (1 - fresh) * weight + (column === j ? fresh : 0);
  }
  return weight;
}
