/** @file Whose run is next: prompts are read while answers go on, and neither waits for all of the other. */
import { describe, expect, test } from "vitest";
import { EngineTurns, type RunKind } from "#precis/runtime/engine-turns.js";

/** Asks for runs of these kinds at once, each taking some milliseconds of a clock. @returns the order in which they ran */
async function orderOf(kinds: readonly RunKind[], ms: number): Promise<string[]> {
  let now = 0;
  const turns = new EngineTurns(() => now);
  const order: string[] = [];
  const run = (kind: RunKind, name: string): Promise<void> =>
    turns.take(kind, async () => {
      await Promise.resolve();
      now += ms;
      order.push(name);
    });
  // So that a decoding step has ended just now.
  await run("decode", "step");
  await Promise.all(kinds.map((kind, index) => run(kind, `${kind} ${index}`)));
  return order.slice(1);
}

describe("EngineTurns", () => {
  test("reads short prompts first, so that their answers join the batch", async () => {
    expect(await orderOf(["read", "decode", "read", "read"], 10)).toEqual(["read 0", "read 2", "read 3", "decode 1"]);
  });

  test("lets a decoding step through once it has waited for long reads", async () => {
    expect(await orderOf(["read", "decode", "read", "read"], 50)).toEqual(["read 0", "decode 1", "read 2", "read 3"]);
  });

  test("goes on after a run that failed", async () => {
    const turns = new EngineTurns();
    const failing = turns.take("read", () => Promise.reject(new Error("broken")));
    const next = turns.take("decode", () => Promise.resolve("done"));
    await expect(failing).rejects.toThrow("broken");
    expect(await next).toBe("done");
  });

  test("never runs two at once", async () => {
    const turns = new EngineTurns();
    let [running, most] = [0, 0];
    const work = async (): Promise<void> => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
    };
    await Promise.all(Array.from({ length: 12 }, (_, index) => turns.take(index % 3 === 0 ? "decode" : "read", work)));
    expect([running, most]).toEqual([0, 1]);
  });
});
