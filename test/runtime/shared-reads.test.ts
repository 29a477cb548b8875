/** @file Inputs that wait at the same time are read in one pass where that pays, and come out as if read alone. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { GenerationResult, Memory } from "#precis/index.js";
import { KvRow } from "#precis/cache/kv-row.js";
import { LoadedModel } from "#precis/runtime/loaded-model.js";
import type { DecoderRunner, ForwardResult } from "#precis/runtime/decoder-runner.js";
import { EngineTurns } from "#precis/runtime/engine-turns.js";
import type { LoadedAdapter } from "#precis/runtime/loaded-adapter.js";
import type { SequenceInput } from "#precis/runtime/sequence-input.js";
import { chooseGroup, SharedReads, type PassCosts, type Read } from "#precis/runtime/shared-reads.js";
import { createFixture, textIds, TRIED_METHODS, type Fixture } from "../conformance/fixtures.js";

const COSTS: PassCosts = { slots: 400, tokens: 12 };
const SHAPE = { layers: 1, kvHeads: 1, headDim: 2 };

function readOf(tokens: number, slots = 0, adapter?: LoadedAdapter): Read {
  const past = new KvRow(SHAPE);
  const data = (): Float32Array[] => [new Float32Array(slots * 2)];
  const positions = Array.from({ length: slots }, (_, slot) => slot);
  past.append({ keys: data(), values: data(), seq: slots }, 0, 0, positions, "text");
  const ids = textIds(tokens);
  return { input: { past, ids, positions: ids.map((_, index) => slots + index) }, logits: "last", adapter };
}

/** Tokens of each input of the first pass. */
function grouped(reads: readonly Read[]): number[] {
  return chooseGroup(reads, COSTS).map(({ input }) => input.ids.length);
}

describe("inputs share a pass", () => {
  test("if they are about as long; those that are not wait for one of their own", () => {
    expect(grouped([readOf(30), readOf(90), readOf(32), readOf(5), readOf(29)])).toEqual([30, 32, 29]);
  });

  test("up to a number of tokens, so that nobody else waits long", () => {
    expect(grouped(Array.from({ length: 20 }, () => readOf(30)))).toHaveLength(8);
    expect(grouped([readOf(250), readOf(250)])).toEqual([250]);
    expect(grouped([readOf(512), readOf(30)])).toEqual([512]);
  });

  test("unless their memories are so long that copying them costs more", () => {
    expect(grouped([readOf(30, 9), readOf(31, 40)])).toEqual([30, 31]);
    expect(grouped([readOf(30, 600), readOf(31, 600)])).toEqual([30]);
    expect(grouped([readOf(30, 9), readOf(31, 600), readOf(32, 12)])).toEqual([30, 32]);
  });

  test("if the same adapter acts on them", () => {
    const adapter = {} as LoadedAdapter;
    expect(grouped([readOf(30), readOf(31, 0, adapter), readOf(32)])).toEqual([30, 32]);
    expect(grouped([readOf(30, 0, adapter), readOf(31), readOf(32, 0, adapter)])).toEqual([30, 32]);
  });
});

/** Reads with a pass that only notes what it was given, in tokens; it fails where `isBad`. */
function recorder(isBad: (read: Read) => boolean = () => false): {
  reads: SharedReads;
  turns: EngineTurns;
  passes: number[][];
} {
  const turns = new EngineTurns(() => 0);
  const passes: number[][] = [];
  const pass = async (reads: readonly Read[]): Promise<ForwardResult[]> => {
    passes.push(reads.map(({ input }) => input.ids.length));
    if (reads.some(isBad)) throw new Error("bad input");
    return reads.map(({ input: { ids } }) => ({
      logits: Float32Array.of(ids.length),
      seq: 0,
      keys: [],
      values: [],
      taps: {},
    }));
  };
  return { reads: new SharedReads(turns, pass, COSTS), turns, passes };
}

describe("reads that wait", () => {
  test("are all answered, each with its own result", async () => {
    const { reads, passes } = recorder();
    const lengths = [30, 31, 90, 32, 88, 29];
    const results = await Promise.all(lengths.map((length) => reads.read(readOf(length))));
    expect(results.map(({ logits }) => logits[0])).toEqual(lengths);
    expect(passes).toEqual([
      [30, 31, 32, 29],
      [90, 88],
    ]);
  });

  test("do not fail for what is wrong with another one", async () => {
    const { reads } = recorder(({ input }) => input.ids.length === 31);
    const ends = await Promise.allSettled([30, 31, 32].map((length) => reads.read(readOf(length))));
    expect(ends.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(await reads.read(readOf(8))).toMatchObject({ logits: Float32Array.of(8) });
  });

  test("are not passed over for others that keep coming", async () => {
    const { reads, passes } = recorder();
    const done = new AbortController();
    const keepReading = async (): Promise<void> => {
      while (!done.signal.aborted) await reads.read(readOf(30));
    };
    const others = [keepReading(), keepReading(), keepReading()];
    await reads.read(readOf(200));
    done.abort();
    await Promise.all(others);
    expect(passes.findIndex((pass) => pass.includes(200))).toBeLessThanOrEqual(1);
  });

  test("take turns with the pieces of a long input", async () => {
    const { reads, passes } = recorder();
    const long = async (): Promise<void> => {
      for (let piece = 0; piece < 4; piece++) await reads.read(readOf(512));
    };
    const short = async (): Promise<void> => {
      for (let question = 0; question < 2; question++) await reads.read(readOf(30));
    };
    await Promise.all([long(), short(), short()]);
    expect(passes).toEqual([[512], [30, 30], [512], [30, 30], [512], [512]]);
  });
});

describe("on a model", () => {
  let fixture: Fixture;
  let model: LoadedModel;
  let runner: DecoderRunner;
  beforeAll(async () => {
    fixture = await createFixture({ seed: 21 });
    const { signal } = new AbortController();
    const options = { dtype: "fp32", device: "cpu", threads: 1 } as const;
    model = await LoadedModel.load(fixture.files.directory, options, { signal, onProgress: () => undefined });
    ({ runner } = model);
  });
  afterAll(async () => {
    await model.dispose();
    await fixture[Symbol.asyncDispose]();
  });

  /** An input over a memory that holds so many tokens. */
  async function inputOf(slots: number, ids: readonly number[], seed: number): Promise<SequenceInput> {
    const past = new KvRow(runner.shape);
    const held = textIds(slots, seed);
    const positions = held.map((_, index) => index);
    if (slots > 0) {
      past.append(await runner.forward([{ past, ids: held, positions }], { logits: "none" }), 0, 0, positions, "text");
    }
    return { past, ids, positions: ids.map((_, index) => slots + index) };
  }

  const near = (got: Float32Array, wanted: Float32Array): void => {
    expect(got).toHaveLength(wanted.length);
    wanted.forEach((value, index) => expect(Math.abs((got[index] as number) - value)).toBeLessThan(1e-5));
  };

  test("rows and logits of inputs of other lengths over memories of other lengths are those of each alone", async () => {
    const sizes = [
      { slots: 3, tokens: 9, logits: "last" },
      { slots: 0, tokens: 11, logits: "all" },
      { slots: 5, tokens: 10, logits: "none" },
      { slots: 4, tokens: 8, logits: [2, 5] },
    ] as const;
    const inputs: SequenceInput[] = [];
    for (const [seed, { slots, tokens }] of sizes.entries()) {
      inputs.push(await inputOf(slots, textIds(tokens, 9 + seed), seed));
    }
    const run = (input: SequenceInput, index: number): Promise<ForwardResult> => {
      const logits = (sizes[index] as (typeof sizes)[number]).logits;
      return runner.forward([input], { logits: typeof logits === "string" ? logits : [logits] });
    };
    const alone: ForwardResult[] = [];
    for (const [index, input] of inputs.entries()) alone.push(await run(input, index));
    const together = await Promise.all(inputs.map(run));
    // All were padded to the longest one.
    expect(together.map(({ seq }) => seq)).toEqual([11, 11, 11, 11]);
    for (const [index, input] of inputs.entries()) {
      const [got, wanted] = [together[index] as ForwardResult, alone[index] as ForwardResult];
      near(got.logits, wanted.logits);
      for (const part of ["keys", "values"] as const) {
        for (const [layer, data] of wanted[part].entries()) {
          near((got[part][layer] as Float32Array).subarray(0, data.length), data);
          expect(data).toHaveLength(input.ids.length * runner.shape.kvHeads * runner.shape.headDim);
        }
      }
    }
  });

  test("an unknown token fails alone", async () => {
    const inputs = [
      await inputOf(3, textIds(9), 1),
      await inputOf(3, [7, 99_999, 8], 2),
      await inputOf(2, textIds(9), 3),
    ];
    const ends = await Promise.allSettled(inputs.map((input) => runner.forward([input], { logits: "last" })));
    expect(ends.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(ends[1]).toMatchObject({ reason: { code: "INPUT_INVALID", value: 99_999 } });
  });

  const answer = (memory: Memory, index: number, signal?: AbortSignal): Promise<GenerationResult> =>
    memory.answer(textIds(8 + (index % 4), index), { maxTokens: 6, ignoreEos: true, logprobs: 1, signal });

  /** Memories of every method, of a few lengths. */
  const memories = (): Promise<Memory[]> =>
    Promise.all(
      TRIED_METHODS.map(async (method, index) => {
        const memory = await fixture.memory(method);
        for (let step = 0; step <= index % 3; step++) await memory.append(textIds(4 + (index % 5), index + step));
        return memory;
      }),
    );

  test("answers of every method, asked at once, are those given one by one", async () => {
    const [alone, together] = [await memories(), await memories()];
    const wanted: number[][] = [];
    for (const [index, memory] of alone.entries()) wanted.push((await answer(memory, index)).tokenIds);
    const got = await Promise.all(together.map((memory, index) => answer(memory, index)));
    expect(got.map(({ tokenIds }) => tokenIds)).toEqual(wanted);
    for (const [index, memory] of together.entries()) {
      expect(await memory.stats()).toEqual(await alone[index]?.stats());
    }
  });

  test("one that is cancelled while it is read with others leaves them alone", async () => {
    const [alone, together] = [await memories(), await memories()];
    const before = await together[3]?.stats();
    const wanted: number[][] = [];
    for (const [index, memory] of alone.entries()) wanted.push((await answer(memory, index)).tokenIds);
    const controller = new AbortController();
    const ends = together.map((memory, index) => answer(memory, index, index === 3 ? controller.signal : undefined));
    controller.abort();
    for (const [index, end] of (await Promise.allSettled(ends)).entries()) {
      if (index === 3) expect(end).toMatchObject({ status: "rejected", reason: { code: "ABORTED" } });
      else expect(end).toMatchObject({ status: "fulfilled", value: { tokenIds: wanted[index] } });
    }
    expect(await together[3]?.stats()).toEqual(before);
  });

  test("short questions are answered while a long text is read, and it is read to its end", async () => {
    const long = await fixture.memory({ method: "sliding-window", options: { window: 64 } });
    const short = await Promise.all([0, 1, 2].map(() => fixture.memory()));
    const order: string[] = [];
    const reading = long.append(textIds(6000)).then(() => order.push("long"));
    const answers = short.map(async (memory, index) => {
      await memory.answer(textIds(9, index), { maxTokens: 1, ignoreEos: true });
      order.push("short");
    });
    await Promise.all([reading, ...answers]);
    expect(order).toEqual(["short", "short", "short", "long"]);
    expect(await long.stats()).toMatchObject({ tokensSeen: 6000 });
  });
});
