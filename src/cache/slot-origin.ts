/** @file Where a slot comes from: the time steps that wrote it and the text that it stands for. */

/**
 * A slot's provenance. Steps count from 1; tokens count all text that the memory has seen, from 0. A slot that several
 * steps were merged into spans them all.
 */
export interface SlotOrigin {
  readonly firstStep: number;
  readonly lastStep: number;
  readonly firstToken: number;
  /** One past the last token. */
  readonly endToken: number;
}

/** An origin that covers others; undefined where one of them is unknown. */
export function joinOrigins(origins: readonly (SlotOrigin | undefined)[]): SlotOrigin | undefined {
  const known = origins.filter((origin) => origin !== undefined);
  if (known.length < origins.length || known.length === 0) return undefined;
  return {
    firstStep: Math.min(...known.map(({ firstStep }) => firstStep)),
    lastStep: Math.max(...known.map(({ lastStep }) => lastStep)),
    firstToken: Math.min(...known.map(({ firstToken }) => firstToken)),
    endToken: Math.max(...known.map(({ endToken }) => endToken)),
  };
}

/** The origins of `count` tokens that one step reads, the first of them being number `firstToken`. */
export function tokenOrigins(step: number, firstToken: number, count: number): SlotOrigin[] {
  return Array.from({ length: count }, (_, index) => ({
    firstStep: step,
    lastStep: step,
    firstToken: firstToken + index,
    endToken: firstToken + index + 1,
  }));
}

/** Neighbouring slots: how many, first and last step, first and end token; `1` where each slot is a token of its own. */
type OriginRun = [
  slots: number,
  firstStep: number,
  lastStep: number,
  firstToken: number,
  endToken: number,
  each: 0 | 1,
];

/** Origins in few numbers, as snapshots keep them: text is one run per step, and so are the slots of a compression. */
export function packOrigins(origins: readonly (SlotOrigin | undefined)[]): number[][] {
  const runs: OriginRun[] = [];
  for (const origin of origins) {
    // No token is number -1, so this is what is not known.
    const { firstStep, lastStep, firstToken, endToken } = origin ?? UNKNOWN;
    const isToken = endToken - firstToken === 1;
    const run = runs.at(-1);
    const sameSteps = run !== undefined && run[1] === firstStep && run[2] === lastStep;
    if (sameSteps && isToken && run[5] === 1 && run[4] === firstToken) {
      run[0] += 1;
      run[4] = endToken;
    } else if (sameSteps && run[5] === 0 && run[3] === firstToken && run[4] === endToken) run[0] += 1;
    else runs.push([1, firstStep, lastStep, firstToken, endToken, isToken ? 1 : 0]);
  }
  return runs;
}

const UNKNOWN: SlotOrigin = { firstStep: 0, lastStep: 0, firstToken: -1, endToken: -1 };

/** What {@link packOrigins} packed; undefined where it makes no sense for so many slots. */
export function unpackOrigins(packed: unknown, slots: number): (SlotOrigin | undefined)[] | undefined {
  if (!Array.isArray(packed)) return undefined;
  const origins: (SlotOrigin | undefined)[] = [];
  for (const run of packed as unknown[]) {
    if (!isRun(run)) return undefined;
    const [count, firstStep, lastStep, firstToken, endToken, each] = run;
    if (origins.length + count > slots || (each === 1 && endToken - firstToken !== count)) return undefined;
    const origin = { firstStep, lastStep, firstToken, endToken };
    for (let i = 0; i < count; i++) {
      if (firstToken < 0) origins.push(undefined);
      else origins.push(each === 1 ? { ...origin, firstToken: firstToken + i, endToken: firstToken + i + 1 } : origin);
    }
  }
  return origins.length === slots ? origins : undefined;
}

function isRun(run: unknown): run is OriginRun {
  if (!Array.isArray(run) || run.length !== 6 || !run.every(Number.isSafeInteger)) return false;
  const [count, firstStep, lastStep, firstToken, endToken, each] = run as OriginRun;
  if (count < 1 || (each !== 0 && each !== 1)) return false;
  if (firstToken === -1) return endToken === -1 && each === 0;
  return firstStep >= 1 && lastStep >= firstStep && firstToken >= 0 && endToken > firstToken;
}
