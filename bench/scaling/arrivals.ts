/** @file When which session gets a turn, over days: a daily rhythm, few sessions with many turns and many with few. */

/** What people do. */
export interface Habits {
  sessions: number;
  days: number;
  /** Share of sessions that are visited on a day, on average. */
  visitsPerDay: number;
  /** How much busier the busiest moment is than the mean, 0 to 1: 0.8 swings from 0.2 to 1.8 times the mean. */
  rhythm: number;
  /** Exponent of the Pareto law of turns per visit; smaller has a heavier tail. */
  tail: number;
  /** Most turns of a visit. */
  mostTurns: number;
  /** Median seconds between an answer and the next turn. */
  thinkSeconds: number;
  /** Median and spread (of the logarithm) of turns that a session has had before the first day. */
  age: { median: number; spread: number };
}

/** Turns in the order of time. */
export interface Turns {
  /** Seconds since the first midnight. */
  times: Float64Array;
  sessions: Int32Array;
  /** Turns that each session has had before. */
  ages: Int32Array;
}

export const DAY = 86_400;
/** Hour of the day in which most visits begin. */
const BUSIEST_HOUR = 20;
/** Spread of the logarithm of the time to think. */
const THINK_SPREAD = 1;

/** A generator of random numbers: Mulberry32, which is fast and enough for this. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

function logNormal(random: () => number, median: number, spread: number): number {
  return median * Math.exp(spread * normal(random));
}

/** A second of the day, more often in busy hours. */
function secondOfDay(random: () => number, rhythm: number): number {
  for (;;) {
    const second = DAY * random();
    const phase = (2 * Math.PI * (second / 3600 - BUSIEST_HOUR)) / 24;
    if (random() * (1 + rhythm) < 1 + rhythm * Math.cos(phase)) return second;
  }
}

/** All turns of some days. The same habits and seed give the same turns. */
export function drawTurns(habits: Habits, seed: number): Turns {
  const { sessions, days, visitsPerDay, rhythm, tail, mostTurns, thinkSeconds, age } = habits;
  const random = randomNumbers(seed);
  const ages = Int32Array.from({ length: sessions }, () => Math.round(logNormal(random, age.median, age.spread)));
  const [times, owners]: [number[], number[]] = [[], []];
  for (let session = 0; session < sessions; session++) {
    for (let day = 0; day < days; day++) {
      if (random() >= visitsPerDay) continue;
      let time = day * DAY + secondOfDay(random, rhythm);
      const turns = Math.min(mostTurns, Math.floor((1 - random()) ** (-1 / tail)));
      for (let turn = 0; turn < turns && time < days * DAY; turn++) {
        times.push(time);
        owners.push(session);
        time += logNormal(random, thinkSeconds, THINK_SPREAD);
      }
    }
  }
  const order = orderOf(times, days * DAY);
  return {
    times: Float64Array.from(order, (index) => times[index] as number),
    sessions: Int32Array.from(order, (index) => owners[index] as number),
    ages,
  };
}

/** Indices in the order of their times: into buckets of a second, then each bucket sorted. */
function orderOf(times: readonly number[], end: number): Int32Array {
  const starts = new Int32Array(end + 1);
  const add = (second: number, count: number): void => {
    starts[second] = (starts[second] as number) + count;
  };
  for (const time of times) add(Math.floor(time) + 1, 1);
  for (let second = 0; second < end; second++) add(second + 1, starts[second] as number);
  const next = starts.slice();
  const order = new Int32Array(times.length);
  for (const [index, time] of times.entries()) {
    const second = Math.floor(time);
    const at = next[second] as number;
    order[at] = index;
    next[second] = at + 1;
  }
  for (let second = 0; second < end; second++) {
    const [from, to] = [starts[second] as number, starts[second + 1] as number];
    if (to - from > 1) order.subarray(from, to).sort((a, b) => (times[a] as number) - (times[b] as number));
  }
  return order;
}
