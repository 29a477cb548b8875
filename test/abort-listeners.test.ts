/** @file Listening to signals that outlive the work. */
import { expect, test } from "vitest";
import { AbortListeners } from "#precis/abort-listeners.js";
import { tracesOn } from "./traces.js";

test("many callbacks on one signal are one listener, and none when they are taken back", () => {
  const { signal } = new AbortController();
  const listeners = new AbortListeners();
  const callback = (): void => undefined;
  const removals = Array.from({ length: 50 }, () => listeners.add(signal, callback));
  expect(tracesOn(signal)).toBe(1);
  for (const remove of removals.slice(1)) remove();
  expect(tracesOn(signal)).toBe(1);
  removals[0]?.();
  expect(tracesOn(signal)).toBe(0);
});

test("an abort reaches, once and in order, those that were not taken back", () => {
  const controller = new AbortController();
  const listeners = new AbortListeners();
  const called: string[] = [];
  listeners.add(controller.signal, () => {
    called.push("first");
    removeThird();
  });
  const removeSecond = listeners.add(controller.signal, () => called.push("second"));
  const removeThird = listeners.add(controller.signal, () => called.push("third"));
  listeners.add(controller.signal, () => called.push("fourth"));
  removeSecond();
  removeSecond();
  controller.abort();
  expect(called).toEqual(["first", "fourth"]);
});

test("taking back twice spares who came in between", () => {
  const controller = new AbortController();
  const listeners = new AbortListeners();
  const remove = listeners.add(controller.signal, () => undefined);
  remove();
  let called = false;
  listeners.add(controller.signal, () => (called = true));
  remove();
  controller.abort();
  expect(called).toBe(true);
});

test.each([0, 1])(
  "work is told of the abort of signal %i with its reason, and leaves nothing on either",
  async (which) => {
    const sources = [new AbortController(), new AbortController()];
    const signals = [undefined, ...sources.map(({ signal }) => signal)];
    const reason = new Error("enough");
    const work = new AbortListeners().withAny(signals, async (signal) => {
      expect(sources.map((source) => tracesOn(source.signal))).toEqual([1, 1]);
      sources[which]?.abort(reason);
      signal.throwIfAborted();
    });
    await expect(work).rejects.toBe(reason);
    expect(sources.map((source) => tracesOn(source.signal))).toEqual([0, 0]);
  },
);

test("work that begins after the abort sees it, with the reason that came first", async () => {
  const [first, second] = [AbortSignal.abort("first"), AbortSignal.abort("second")];
  const seen = await new AbortListeners().withAny([first, second], async ({ aborted, reason }) => ({
    aborted,
    reason,
  }));
  expect(seen).toEqual({ aborted: true, reason: "first" });
});
