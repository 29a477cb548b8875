/** @file Who uses the engine when. */
import { describe, expect, test, vi } from "vitest";
import { MemoryBudget, type Resident } from "#precis/server/memory-budget.js";
import { Scheduler } from "#precis/server/scheduler.js";
import { tracesOn } from "../traces.js";

/** A scheduler whose jobs end when told to; `order` names them as they begin. */
function harness(limits: { bytes?: number; concurrency?: number; queue?: number }) {
  const budget = new MemoryBudget(limits.bytes ?? 1000);
  const scheduler = new Scheduler(budget, { concurrency: limits.concurrency ?? 1, queue: limits.queue ?? 100 });
  const order: string[] = [];
  const ends = new Map<string, () => void>();
  const submit = (key: string, name: string, bytes = 1, signal?: AbortSignal): Promise<string> =>
    scheduler.run({ key, bytes, signal }, async (combined) => {
      order.push(name);
      await new Promise<void>((resolve, reject) => {
        ends.set(name, resolve);
        combined.addEventListener("abort", () => reject(combined.reason), { once: true });
      });
      return name;
    });
  const end = async (name: string): Promise<void> => {
    ends.get(name)?.();
    await settle();
  };
  return { budget, scheduler, order, submit, end };
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Runs `make`. @returns what it returns, and the signals of all controllers that it made */
function signalsOf<Result>(make: () => Result): { made: Result; signals: AbortSignal[] } {
  const signals: AbortSignal[] = [];
  class Watched extends AbortController {
    constructor() {
      super();
      signals.push(this.signal);
    }
  }
  vi.stubGlobal("AbortController", Watched);
  try {
    return { made: make(), signals };
  } finally {
    vi.unstubAllGlobals();
  }
}

describe("jobs", () => {
  test("of several keys take turns, however many one key sends", async () => {
    const { order, submit, end } = harness({});
    const all = [submit("a", "a1"), submit("a", "a2"), submit("a", "a3"), submit("b", "b1"), submit("c", "c1")];
    await settle();
    for (let i = 0; i < 5; i++) await end(order.at(-1) as string);
    await Promise.all(all);
    expect(order).toEqual(["a1", "a2", "b1", "c1", "a3"]);
  });

  test("run side by side up to the limit", async () => {
    const { scheduler, order, submit, end } = harness({ concurrency: 2 });
    const all = [submit("a", "1"), submit("a", "2"), submit("a", "3")];
    await settle();
    expect(order).toEqual(["1", "2"]);
    expect({ running: scheduler.running, queued: scheduler.queued }).toEqual({ running: 2, queued: 1 });
    await end("2");
    expect(order).toEqual(["1", "2", "3"]);
    await end("1");
    await end("3");
    await Promise.all(all);
    expect(scheduler.running).toBe(0);
  });

  test("wait for memory in order, so that a large one is not starved", async () => {
    const { budget, order, submit, end } = harness({ bytes: 100, concurrency: 9 });
    const all = [submit("a", "half", 50), submit("b", "large", 80), submit("c", "small", 10)];
    await settle();
    expect(order).toEqual(["half"]);
    await end("half");
    expect(order).toEqual(["half", "large", "small"]);
    await end("large");
    await end("small");
    await Promise.all(all);
    expect(budget.used).toBe(0);
  });

  test("that never fit are refused at once", async () => {
    const { submit } = harness({ bytes: 100 });
    await expect(submit("a", "huge", 101)).rejects.toMatchObject({ status: 400, apiCode: "memory_budget_exceeded" });
  });

  test("beyond the queue get 429 and when to come again", async () => {
    const { submit, end } = harness({ queue: 1 });
    const all = [submit("a", "1"), submit("a", "2")];
    await settle();
    await expect(submit("b", "3")).rejects.toMatchObject({ status: 429, apiCode: "queue_full" });
    await end("1");
    await end("2");
    await Promise.all(all);
  });

  test("whose client leaves while they wait never begin", async () => {
    const { scheduler, order, submit, end } = harness({});
    const first = submit("a", "1");
    await settle();
    const leave = new AbortController();
    const second = submit("a", "2", 1, leave.signal);
    await settle();
    leave.abort(new Error("left"));
    await expect(second).rejects.toThrow("left");
    expect(scheduler.queued).toBe(0);
    await end("1");
    await first;
    expect(order).toEqual(["1"]);
  });
});

describe("closing", () => {
  test("lets what runs and waits finish, and takes nothing new", async () => {
    const { scheduler, submit, end } = harness({});
    const all = [submit("a", "1"), submit("a", "2")];
    await settle();
    const closed = scheduler.close(60_000);
    await expect(submit("a", "3")).rejects.toMatchObject({ status: 503 });
    await end("1");
    await end("2");
    await closed;
    expect(await Promise.all(all)).toEqual(["1", "2"]);
  });

  test("cancels what takes longer than it may", async () => {
    const { scheduler, submit } = harness({});
    const running = submit("a", "1");
    const waiting = submit("a", "2");
    await settle();
    const failures = Promise.allSettled([running, waiting]);
    await scheduler.close(5);
    for (const end of await failures) expect(end).toMatchObject({ status: "rejected", reason: { status: 503 } });
  });
});

describe("the memory budget", () => {
  const resident = (log: string[], name: string, evictable = true): Resident => ({
    evictable,
    evict: () => log.push(name),
  });

  test("sends the longest unused away first, and only as many as it must", () => {
    const budget = new MemoryBudget(100);
    const gone: string[] = [];
    const [a, b, c] = ["a", "b", "c"].map((name) => resident(gone, name)) as [Resident, Resident, Resident];
    for (const one of [a, b, c]) budget.hold(one, 30);
    budget.hold(a, 30);
    expect(budget.reserve(40)).toBe(true);
    expect(gone).toEqual(["b"]);
    expect(budget.used).toBe(100);
    budget.release(40);
    expect(budget.used).toBe(60);
  });

  test("leaves those in use, and says no rather than go over", () => {
    const budget = new MemoryBudget(100);
    const gone: string[] = [];
    budget.hold(resident(gone, "used", false), 80);
    expect(budget.reserve(40)).toBe(false);
    expect(budget.used).toBe(80);
    expect(gone).toEqual([]);
  });
});

test("finished, failed, refused and cancelled jobs leave nothing on the signals of client and server", async () => {
  const { made, signals } = signalsOf(() => harness({ concurrency: 20, queue: 20, bytes: 1000 }));
  const { scheduler, submit, end } = made;
  const client = new AbortController();
  const watched = [...signals, client.signal];
  const traces = (): number[] => watched.map(tracesOn);
  expect(signals.length).toBeGreaterThan(0);

  const many = Array.from({ length: 40 }, (_, index) => submit("a", `${index}`, 1, client.signal));
  await settle();
  // However many there are, Node sees no more than one.
  expect(Math.max(...traces())).toBe(1);
  await expect(submit("a", "one too many", 1, client.signal)).rejects.toMatchObject({ status: 429 });
  for (let index = 0; index < 40; index++) await end(`${index}`);
  await Promise.all(many);
  const failing = scheduler.run({ key: "a", bytes: 1, signal: client.signal }, () => Promise.reject(new Error("no")));
  await expect(failing).rejects.toThrow("no");
  await expect(submit("a", "too large", 1001, client.signal)).rejects.toMatchObject({ status: 400 });
  expect(traces()).toEqual(watched.map(() => 0));

  const cancelled = Array.from({ length: 40 }, (_, index) => submit("a", `${index}`, 1, client.signal));
  await settle();
  client.abort(new Error("gone"));
  for (const result of await Promise.allSettled(cancelled)) {
    expect(result).toMatchObject({ status: "rejected", reason: { message: "gone" } });
  }
  expect(traces()).toEqual(watched.map(() => 0));
  expect({ running: scheduler.running, queued: scheduler.queued }).toEqual({ running: 0, queued: 0 });
});
