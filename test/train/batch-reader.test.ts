/** @file Batches are read one ahead of need, and nobody can tell but by the clock. */

import { expect, test } from "vitest";

import { BatchReader } from "#precis/train/batch-reader.js";
import { expectError } from "../conformance/expect-error.js";

/** A source that counts what it was asked for. */
function source(count: number) {
  const seen = { made: 0, closed: false };
  async function* batches(): AsyncGenerator<number, void, void> {
    try {
      while (seen.made < count) yield seen.made++;
    } finally {
      seen.closed = true;
    }
  }
  return { seen, batches: batches() };
}

/** Lets everything happen that waits for nothing. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("batches come in order, whether they were read ahead or not", async () => {
  const { batches } = source(6);
  await using reader = new BatchReader(batches);
  const order = [await reader.next()];
  reader.readAhead();
  order.push(await reader.next());
  reader.readAhead();
  await settle();
  order.push(await reader.next(), await reader.next());
  expect(order).toEqual([0, 1, 2, 3]);
});

test("the batch that was read ahead shows once it has arrived, until it is taken", async () => {
  let deliver: (batch: string) => void = () => undefined;
  async function* slow(): AsyncGenerator<string, void, void> {
    for (;;) yield await new Promise<string>((resolve) => (deliver = resolve));
  }
  await using reader = new BatchReader(slow());
  expect(reader.arrived).toBeUndefined();
  reader.readAhead();
  await settle();
  expect(reader.arrived).toBeUndefined();
  deliver("first");
  await settle();
  expect(reader.arrived).toBe("first");
  expect(await reader.next()).toBe("first");
  expect(reader.arrived).toBeUndefined();
});

test("never more than one batch is read ahead, and none without being asked", async () => {
  const { seen, batches } = source(6);
  await using reader = new BatchReader(batches);
  await reader.next();
  await settle();
  expect(seen.made).toBe(1);
  for (let i = 0; i < 3; i++) reader.readAhead();
  await settle();
  expect(seen.made).toBe(2);
});

test("the end of the data, and an error of their source, are met by who takes the batch, not by reading ahead", async () => {
  const { batches } = source(1);
  await using short = new BatchReader(batches);
  await short.next();
  short.readAhead();
  await settle();
  expect(short.arrived).toBeUndefined();
  await expectError(short.next(), "INPUT_INVALID", /data ended/);
  async function* broken(): AsyncGenerator<number, void, void> {
    yield 0;
    throw new Error("no more disks");
  }
  await using failing = new BatchReader(broken());
  await failing.next();
  failing.readAhead();
  await settle();
  await expect(failing.next()).rejects.toThrow("no more disks");
});

test("disposal ends the source, also with a batch read ahead that nobody takes", async () => {
  const { seen, batches } = source(6);
  {
    await using reader = new BatchReader(batches);
    await reader.next();
    reader.readAhead();
  }
  expect(seen.closed).toBe(true);
});
