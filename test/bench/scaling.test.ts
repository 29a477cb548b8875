/** @file The simulation of many sessions: its parts do what their names say, and it gives the same answer every time. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { DAY, drawTurns, randomNumbers, type Habits } from "../../bench/scaling/arrivals.js";
import { readCosts, sizeAt, timeFor, type CostPoint, type Costs, type MethodCosts } from "../../bench/scaling/costs.js";
import { cheaperOf } from "../../bench/scaling/faster.js";
import { LruCache } from "../../bench/scaling/lru.js";
import { sessionsPerGigabyte } from "../../bench/scaling/per-gigabyte.js";
import { simulate, type Serving } from "../../bench/scaling/simulate.js";

const HABITS: Habits = {
  sessions: 1500,
  days: 2,
  visitsPerDay: 0.5,
  rhythm: 0.8,
  tail: 1.3,
  mostTurns: 100,
  thinkSeconds: 25,
  age: { median: 10, spread: 1 },
};

function point(tokens: number, bytes: number): CostPoint {
  const snapshots = { fp32: bytes, fp16: bytes / 2, int8: bytes / 4, int4: bytes / 8 };
  return { messages: 1, tokens, slots: bytes / 1e4, bytes, snapshots, saveMs: bytes / 1e5, restoreMs: bytes / 1e5 };
}
const rates = { promptRate: 1000, answerRate: 500, commitMs: 1 };
const growing: MethodCosts = { method: "growing", points: [point(100, 1e6), point(1100, 11e6)], ...rates };
const fixed: MethodCosts = { method: "fixed", points: [point(100, 1e5), point(1100, 1e5)], ...rates };
const costs: Costs = {
  model: "made up",
  dtype: "fp32",
  cores: 2,
  store: "none",
  batch: 8,
  rereadRate: 1000,
  recordBytes: 1000,
  stateBytes: 400,
  methods: [growing, fixed],
};
const SERVING: Serving = {
  memoryBytes: 2e9,
  checkpoints: 0,
  precision: "fp16",
  question: 50,
  answer: 50,
  utilisation: 0.7,
  rereads: false,
};

describe("sizes between measured points", () => {
  const bytes = ({ bytes: held }: CostPoint): number => held;
  test.each([
    [0, 1e6],
    [100, 1e6],
    [600, 6e6],
    [1100, 11e6],
    [2100, 21e6],
  ])("of a growing memory after %i tokens", (tokens, wanted) => {
    expect(sizeAt(growing, tokens, bytes)).toBeCloseTo(wanted, 3);
  });
  test("of a memory of fixed size stay what they are", () => {
    expect(sizeAt(fixed, 1e6, bytes)).toBe(1e5);
  });
});

test("times go with bytes, as most points say", () => {
  const points = growing.points.map((measured, i) => ({ ...measured, saveMs: i === 0 ? 1e4 : 220 }));
  const noisy = { ...growing, points: [...points, { ...point(2100, 21e6), saveMs: 420 }] };
  expect(timeFor(noisy, 5e6, "saveMs")).toBeCloseTo(100, 6);
  expect(timeFor(growing, 5e6, "restoreMs")).toBeCloseTo(50, 6);
});

describe("the cache", () => {
  test("lets go of what was used longest ago, and of no more than it must", () => {
    const cache = new LruCache(4, 30);
    expect([0, 1, 2].map((id) => cache.use(id, 10))).toEqual([false, false, false]);
    expect(cache.use(0, 10)).toBe(true);
    expect(cache.use(3, 10)).toBe(false);
    expect(cache.use(1, 10)).toBe(false);
    expect(cache.use(0, 10)).toBe(true);
    expect([cache.held, cache.count]).toEqual([30, 3]);
  });

  test("does the same as a map that keeps its order, whatever is used", () => {
    const random = randomNumbers(5);
    const cache = new LruCache(50, 200);
    const map = new Map<number, number>();
    for (let use = 0; use < 600; use++) {
      const [id, bytes] = [Math.floor(50 * random()), 1 + Math.floor(20 * random())];
      const wasHeld = map.delete(id);
      map.set(id, bytes);
      const sum = (): number => [...map.values()].reduce((a, b) => a + b, 0);
      for (const [oldest] of map) {
        if (sum() <= 200) break;
        map.delete(oldest);
      }
      expect(cache.use(id, bytes)).toBe(wasHeld);
      expect([cache.held, cache.count]).toEqual([sum(), map.size]);
    }
  });
});

describe("turns", () => {
  const turns = drawTurns(HABITS, 1);

  test("come in the order of time, with a rhythm by the day", () => {
    const hours = Array.from({ length: 24 }, () => 0);
    for (let i = 0; i < turns.times.length; i++) {
      hours[Math.floor((turns.times[i] % DAY) / 3600)]++;
    }
    expect(turns.times.every((time, i) => i === 0 || time >= turns.times[i - 1])).toBe(true);
    expect(Math.max(...hours)).toBeGreaterThan(3 * Math.min(...hours));
    expect(turns.times.length / (HABITS.sessions * HABITS.days * HABITS.visitsPerDay)).toBeGreaterThan(2);
  });

  test("are few in most visits and many in some", () => {
    const counts = new Int32Array(HABITS.sessions);
    for (const session of turns.sessions) counts[session]++;
    const visited = [...counts].filter((count) => count > 0).toSorted((a, b) => b - a);
    const top = visited.slice(0, Math.ceil(visited.length / 10)).reduce((a, b) => a + b, 0);
    expect(top / turns.sessions.length).toBeGreaterThan(0.3);
    expect(visited[Math.floor(visited.length / 2)]).toBeLessThan(6);
  });

  test("are the same for the same seed, and others for another", () => {
    const sums = (seed: number): number => drawTurns(HABITS, seed).times.reduce((sum, time, i) => sum + i * time, 0);
    expect(sums(1)).toBe(sums(1));
    expect(sums(2)).not.toBe(sums(1));
  });
});

describe("the simulation", () => {
  const turns = drawTurns(HABITS, 1);

  test("finds sessions in memory where there is room for all of them", () => {
    const outcome = simulate(turns, costs, fixed, SERVING);
    // All that are not the first of the two days.
    expect(outcome.hitRate).toBeGreaterThan(0.8);
    expect(outcome.resident).toBe(new Set(turns.sessions).size);
    const stored = new Set([...turns.sessions, ...turns.ages.keys()].filter((id) => turns.ages[id] > 0));
    for (const id of turns.sessions) stored.add(id);
    expect(outcome.storeBytes).toBe(stored.size * 51_000);
  });

  test("counts what small memories save", () => {
    const small = { ...SERVING, memoryBytes: 1e8 };
    const [large, compressed] = [simulate(turns, costs, growing, small), simulate(turns, costs, fixed, small)];
    expect(compressed.turns).toBe(large.turns);
    expect(compressed.hitRate).toBeGreaterThan(large.hitRate);
    expect(compressed.storeBytes).toBeLessThan(large.storeBytes / 10);
    expect(compressed.busiest.readBytes).toBeLessThan(large.busiest.readBytes / 10);
    expect(compressed.pagingShare).toBeLessThan(large.pagingShare);
  });

  test("makes reading again dearer than restoring, and needs no store for it", () => {
    const small = { ...SERVING, memoryBytes: 1e8 };
    const again = simulate(turns, costs, growing, { ...small, rereads: true });
    expect(again).toMatchObject({ storeBytes: 0, busiest: { readsPerSecond: 0, writeBytes: 0 } });
    expect(again.missMs).toBeGreaterThan(simulate(turns, costs, growing, small).missMs);
  });

  test("counts earlier states that the store keeps", () => {
    const kept = simulate(turns, costs, fixed, { ...SERVING, checkpoints: 3 });
    const bare = simulate(turns, costs, fixed, SERVING);
    expect(kept.storeBytes).toBeGreaterThan(2 * bare.storeBytes);
    expect(kept.storeBytes).toBeLessThan(4 * bare.storeBytes);
  });

  test("gives the same answer every time", () => {
    expect(simulate(drawTurns(HABITS, 1), costs, growing, SERVING)).toEqual(simulate(turns, costs, growing, SERVING));
  });
});

test("two measurements count as the cheaper one, cost by cost", () => {
  const slower = {
    ...fixed,
    promptRate: 500,
    answerRate: 900,
    points: fixed.points.map((p) => ({ ...p, saveMs: 0.5 })),
  };
  const [growingToo, merged] = cheaperOf(costs, { ...costs, methods: [growing, slower] }).methods;
  expect(growingToo).toEqual(growing);
  expect(merged).toMatchObject({ promptRate: 1000, answerRate: 900, points: [{ saveMs: 0.5, restoreMs: 1 }, {}] });
  expect(() => cheaperOf(costs, { ...costs, methods: [fixed, growing] })).toThrow(RangeError);
});

test("sessions per gigabyte are bytes turned round", () => {
  expect(sessionsPerGigabyte(costs)[0]).toEqual({
    method: "growing",
    tokens: 100,
    engine: 1000,
    stored: { fp32: 999, fp16: 1996, int8: 3984, int4: 7936 },
  });
});

test("docs/scaling.md has the arithmetic of the measured costs", () => {
  const measured = readCosts(new URL("../../bench/scaling-costs.json", import.meta.url));
  const text = readFileSync(new URL("../../docs/scaling.md", import.meta.url), "utf8");
  for (const { method, tokens, engine, stored } of sessionsPerGigabyte(measured)) {
    const { fp32, fp16, int8, int4 } = stored;
    expect(text.replace(/ +/g, " ")).toContain([method, tokens, engine, fp32, fp16, int8, int4].join(" "));
  }
  expect(text).toContain(`a record of ${measured.recordBytes} bytes`);
});
