/**
 * @file What the arrays of text with sentinel spans must be, found position by position from the token ids alone and
 * the rules of attention. Slow, and written without looking at `src/train`.
 */

/** Ids as the oracle needs them: `<CL>` is `vocabSize`, `<CR>` the next. */
export interface SentinelRow {
  ids: readonly number[];
  vocabSize: number;
}

const isOpen = ({ ids, vocabSize }: SentinelRow, i: number): boolean => ids[i] === vocabSize;
const isClose = ({ ids, vocabSize }: SentinelRow, i: number): boolean => ids[i] === vocabSize + 1;
const isText = (row: SentinelRow, i: number): boolean => !isOpen(row, i) && !isClose(row, i);

/** The place of the `<CL>` of the span that text or `<CR>` at `i` belongs to, or -1 outside spans. */
function spanOf(row: SentinelRow, i: number): number {
  for (let j = i - 1; j >= 0; j--) {
    if (isClose(row, j)) return -1;
    if (isOpen(row, j)) return j;
  }
  return -1;
}

/** Whether position `i` attends to position `j`. */
export function sentinelAttends(row: SentinelRow, i: number, j: number): boolean {
  if (j > i) return false;
  if (i === j) return true;
  if (isOpen(row, i)) return false;
  if (isClose(row, i)) return j >= spanOf(row, i);
  if (isOpen(row, j)) return false;
  if (isClose(row, j)) return true;
  return spanOf(row, j) === -1 || spanOf(row, j) === spanOf(row, i);
}

/** The position id of position `i`: the number of text tokens before it; sentinels repeat the position before them. */
export function sentinelPosition(row: SentinelRow, i: number): number {
  if (!isText(row, i)) return i === 0 ? 0 : sentinelPosition(row, i - 1);
  let text = 0;
  for (let j = 0; j < i; j++) if (isText(row, j)) text++;
  return text;
}

/** Pairs [row, id]: position `row` predicts `id`. Sentinels predict nothing; whoever precedes them predicts past them. */
export function sentinelLabels(row: SentinelRow): [row: number, id: number][] {
  return row.ids.flatMap((_, i): [number, number][] => {
    let next = i + 1;
    while (next < row.ids.length && !isText(row, next)) next++;
    return isText(row, i) && next < row.ids.length ? [[i, row.ids[next]]] : [];
  });
}

/** Number of positions before `i` that `counts` says yes to. */
function before(row: SentinelRow, i: number, counts: (row: SentinelRow, j: number) => boolean): number {
  let number = 0;
  for (let j = 0; j < i; j++) if (counts(row, j)) number++;
  return number;
}

/**
 * Whether position `i` attends to position `j` where tokens of closed spans stay visible while they are recent: text
 * sees as many text tokens and `<CR>` together as local attention of this ratio sees text tokens, and its own span.
 */
export function recentAttends(row: SentinelRow, i: number, j: number, ratio: number, isSpanwise = false): boolean {
  if (j > i) return false;
  if (i === j) return true;
  if (isOpen(row, i)) return false;
  if (isClose(row, i)) return j >= spanOf(row, i);
  if (isOpen(row, j)) return false;
  if (isClose(row, j)) return true;
  if (spanOf(row, i) !== -1 && j > spanOf(row, i)) return true;
  const textBefore = before(row, isSpanwise && spanOf(row, i) !== -1 ? spanOf(row, i) : i, isText);
  const forgotten = Math.floor(textBefore * ratio) + before(row, i, isClose);
  return before(row, j, isText) >= forgotten;
}

/**
 * A text with all of its words in spans of `words` words (a word of more than four tokens per word allowed is cut), the
 * last span without its `<CR>`. What comes before the first word is outside.
 * @param begins for each token, whether a word begins with it
 */
export function markRecent(
  ids: readonly number[],
  begins: readonly boolean[],
  words: number,
  vocabSize: number,
): number[] {
  const [open, close] = [vocabSize, vocabSize + 1];
  const spans: number[][] = [];
  let inside = 0;
  ids.forEach((_, i) => {
    const current = spans.at(-1);
    if (current === undefined && !begins[i]) return;
    const isFull = current === undefined || current.length === 4 * words || (begins[i] && inside === words);
    if (isFull) {
      spans.push([]);
      inside = 0;
    }
    if (isFull || begins[i]) inside++;
    spans.at(-1)!.push(ids[i]);
  });
  const wrapped = spans.flatMap((span, index) => [open, ...span, ...(index < spans.length - 1 ? [close] : [])]);
  return [...ids.slice(0, ids.length - spans.flat().length), ...wrapped];
}
