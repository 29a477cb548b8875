/**
 * @file What the parallel forward's arrays must be, found position by position from the token ids alone and the rules
 * in the golden notes. Slow, and written without looking at `src/train`.
 */

/** A mode as the oracle needs it. */
export interface OracleMode {
  method: "concat" | "merge" | "gist" | "full" | "none";
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

const firstSum = (mode: OracleMode): number => mode.vocabSize + mode.compTokens;
const isNew = (id: number, mode: OracleMode): boolean => id >= mode.vocabSize;
const isComp = (id: number, mode: OracleMode): boolean => isNew(id, mode) && id < firstSum(mode);
const isSum = (id: number, mode: OracleMode): boolean => id >= firstSum(mode);

/** Tokens of a sample, from the table of layouts. */
export function oracleTokens(chunks: readonly number[][], input: readonly number[], mode: OracleMode): number[] {
  const comp = Array.from({ length: mode.compTokens }, (_, k) => mode.vocabSize + k);
  const sum = comp.map((id) => id + mode.compTokens);
  const any = chunks.length > 0;
  const name = mode.method + (mode.recursive && (mode.method === "concat" || mode.method === "merge") ? "_recur" : "");
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
    case "full":
      return [...chunks.flat(), ...input];
    default:
      return [...input];
  }
}

/** Number of blocks that end before position `i`. A block ends after its last COMP; in merge_recur after its last SUM. */
function blockOf({ ids }: OracleRow, i: number, mode: OracleMode): number {
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
  return isComp(ids[j], mode) && (mode.recursive || inInput);
}

/** The position id of position `i`: text counts text only; COMP_k and SUM_k come k + 1 after the last text. */
export function oraclePosition({ ids, real }: OracleRow, i: number, mode: OracleMode): number {
  if (!real[i]) return 1;
  let text = 0;
  for (let j = 0; j < i; j++) if (real[j] && !isNew(ids[j], mode)) text++;
  return isNew(ids[i], mode) ? text + ((ids[i] - mode.vocabSize) % mode.compTokens) : text;
}

/** The weight of column `j` in the average that replaces row `i`: found by running the online update. */
export function oracleAverage({ ids, real }: OracleRow, i: number, j: number, mode: OracleMode): number {
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
