/** @file Errors that users meet at work: their codes, what they name, and the next step they tell. */

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loadModel, PrecisError, type MemoryInput, type SamplingOptions } from "#precis/index.js";
import { KvRow } from "#precis/cache/kv-row.js";
import { KvStore } from "#precis/cache/kv-store.js";
import { expectError } from "./conformance/expect-error.js";
import { createFixture, textIds, type Fixture } from "./conformance/fixtures.js";
import { writeRandomAdapter } from "./reference/random-model.js";

const scratch = mkdtempSync(join(tmpdir(), "precis-errors-"));
let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 61 });
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true });
});

describe("adapters", () => {
  const create = (adapter: string): Promise<unknown> => fixture.model.createMemory({ adapter });

  test("that are not there", async () => {
    await expectError(create(join(scratch, "nowhere")), "FILE_NOT_FOUND", /nowhere/, /folder of an adapter/);
  });

  test("made for another model", async () => {
    const { directory } = writeRandomAdapter(join(scratch, "based"), fixture.files.options);
    const file = join(directory, "adapter_config.json");
    const config = JSON.parse(readFileSync(file, "utf8")) as { precis: object };
    writeFileSync(file, JSON.stringify({ ...config, precis: { ...config.precis, base: "0123abcd" } }));
    await expectError(create(directory), "ADAPTER_MISMATCH", /0123abcd/);
  });

  test("of other sizes, or with more layers", async () => {
    const wide = writeRandomAdapter(join(scratch, "wide"), { ...fixture.files.options, hiddenSize: 48 });
    await expectError(create(wide.directory), "ADAPTER_MISMATCH");
    const deep = writeRandomAdapter(join(scratch, "deep"), { ...fixture.files.options, layers: 5 });
    await expectError(create(deep.directory), "ADAPTER_MISMATCH", /layers\.2\./, /base model/);
  });

  test("that a method needs", async () => {
    const without = fixture.model.createMemory({ method: "ccm-concat" });
    await expectError(without, "ADAPTER_MISMATCH", /ccm-concat needs an adapter with COMP tokens/, /training-free/);
  });

  test("are not cached when they fail", async () => {
    const late = join(scratch, "late");
    await expectError(create(late), "FILE_NOT_FOUND");
    writeRandomAdapter(late, fixture.files.options);
    await expect(create(late)).resolves.toBeDefined();
  });
});

describe("methods and options", () => {
  test("an unknown method lists those that there are", async () => {
    const work = fixture.model.createMemory({ method: "telepathy" });
    await expectError(work, "METHOD_UNKNOWN", /"telepathy"/, /full, none, sliding-window/);
  });

  test.each([
    ["streaming", { depth: 3 }, /no option "depth".*window, sink, evict/],
    ["full", { depth: 3 }, /no option "depth".*none/],
    ["streaming", { window: 0 }, /"window" of streaming must be a whole number at least 2, not 0/],
    ["streaming", { window: 2.5 }, /whole number/],
    ["streaming", { window: "many" }, /not "many"/],
    ["streaming", { window: Number.NaN }, /whole number/],
    ["ccm-merge", { average: "median" }, /one of mean, ema/],
    ["ccm-merge", { decay: 2 }, /from 0 to 1/],
    ["ccm-merge", { recursive: "perhaps" }, /true or false/],
  ])("%s with %o", async (method, options, message) => {
    await expectError(fixture.memory({ method, options }), "OPTION_INVALID", message);
  });

  test("options may be text, as on a command line", async () => {
    const memory = await fixture.memory({
      method: "ccm-merge",
      options: { recursive: "false", sink: "2", decay: "0.25" },
    });
    expect(memory.options).toMatchObject({ recursive: false, sink: 2, average: "mean", decay: 0.25 });
  });

  test.each<[SamplingOptions & { maxTokens?: number }, RegExp]>([
    [{ temperature: -1 }, /temperature must be from 0 to 100, not -1/],
    [{ topP: 2 }, /topP/],
    [{ maxTokens: 0 }, /maxTokens must be a whole number from 1 on, not 0/],
    [{ maxTokens: 1.5 }, /maxTokens/],
  ])("an answer with %o", async (options, message) => {
    await expectError((await fixture.memory()).answer([20], options), "OPTION_INVALID", message);
  });

  test("a tap that there is not", async () => {
    const memory = await fixture.memory();
    await expectError(
      memory.forward([20], { taps: ["hidden.99"] }),
      "OPTION_INVALID",
      /"hidden\.99"/,
      /hidden\.N \(0 to 2\)/,
    );
    const { taps } = await memory.forward([20, 21], { taps: ["hidden.0", "attention.1", "queries.0"] });
    expect(Object.values(taps).map(({ dims }) => dims)).toEqual([
      [1, 2, 32],
      [1, 4, 2, 2],
      [1, 2, 32],
    ]);
  });
});

describe("input", () => {
  test.each<[string, MemoryInput, RegExp]>([
    ["an id outside the vocabulary", [5, 320], /Token id 320 is outside the vocabulary of 320/],
    ["a negative id", [-1], /Token id -1/],
    ["a fractional id", [1.5], /Token id 1\.5/],
    ["no ids", [], /input is empty/],
    ["no text", "", /input is empty/],
    ["a message without content", [{ role: "user" }] as unknown as MemoryInput, /Not a message: \{"role":"user"\}/],
    ["a list of lists", [[1, 2]] as unknown as MemoryInput, /Not a message/],
    ["a function", (() => 1) as unknown as MemoryInput, /cannot be sent to the engine/],
  ])("%s", async (_, input, message) => {
    const memory = await fixture.memory();
    await memory.append(textIds(3));
    const before = await memory.stats();
    for (const work of [memory.append(input), memory.forward(input), memory.score(input), memory.answer(input)]) {
      await expectError(work, "INPUT_INVALID", message);
    }
    expect(await memory.stats()).toEqual(before);
  });

  test("text and messages for a model without a tokenizer", async () => {
    const directory = join(scratch, "untokenized");
    cpSync(fixture.files.directory, directory, { recursive: true });
    rmSync(join(directory, "tokenizer.json"));
    rmSync(join(directory, "tokenizer_config.json"));
    await using model = await loadModel(directory, { device: "cpu" });
    expect(model.info).toMatchObject({ hasTokenizer: false, hasChatTemplate: false });
    const memory = await model.createMemory();
    await expectError(memory.append("Hello"), "INPUT_INVALID", /no tokenizer/, /token ids/);
    await expectError(memory.append([{ role: "user", content: "Hello" }]), "TEMPLATE_FAILED", /token ids/);
    await expectError(model.tokenize("Hello"), "INPUT_INVALID", /no tokenizer/);
    await expect(memory.answer([20], { maxTokens: 3, ignoreEos: true })).resolves.toMatchObject({ text: "" });
  });

  test("more than the model takes", async () => {
    await using small = await createFixture({ seed: 61 }, { config: { max_position_embeddings: 32 } });
    const memory = await small.memory();
    await memory.append(textIds(20));
    const logits = (await memory.forward([30])).logits;
    const steps = [/takes 32 positions; 20 slots are held and 13 tokens come/, /compressing method.*sliding-window/];
    await expectError(memory.append(textIds(13)), "CONTEXT_OVERFLOW", ...steps);
    await expectError(memory.forward(textIds(13)), "CONTEXT_OVERFLOW");
    await expectError(memory.answer(textIds(5), { maxTokens: 20, ignoreEos: true }), "CONTEXT_OVERFLOW");
    expect((await memory.forward([30])).logits).toEqual(logits);
    await memory.append(textIds(12));
    // A compressed memory goes on far past the limit, as its slots stay few.
    const merged = await small.memory({ method: "ccm-merge" });
    for (let step = 0; step < 10; step++) await merged.append(textIds(20, step));
    expect(await merged.stats()).toMatchObject({ tokensSeen: 200, slots: 2 });
    expect((await merged.forward(textIds(20))).logits).not.toContain(NaN);
  });
});

describe("memory that runs out", () => {
  const shape = { layers: 32, kvHeads: 8, headDim: 128 };

  test("a cache of absurd size is refused, not crashed on", () => {
    expect(() => new KvStore(shape, 1, 2 ** 40)).toThrow(expect.objectContaining({ code: "OUT_OF_MEMORY" }));
    expect(() => new KvStore(shape, 1, 2 ** 40)).toThrow(/1 x 1099511627776 slots.*bounded memory method/);
    const row = new KvRow(shape, 4);
    expect(() => row.store.grow(2 ** 40)).toThrow(/No room/);
    expect(row.store.capacity).toBe(4);
  });
});

describe("after the end", () => {
  test("a disposed model and its memories say so", async () => {
    const { files } = fixture;
    const model = await loadModel(files.directory, { device: "cpu" });
    const memory = await model.createMemory();
    const running = memory.answer(textIds(4), { maxTokens: 2000, ignoreEos: true });
    const ended = running.then(
      () => undefined,
      (error: unknown) => error,
    );
    await model.dispose();
    expect(await ended).toBeInstanceOf(PrecisError);
    await expectError(memory.stats(), "DISPOSED", /Load it again/);
    await expectError(model.createMemory(), "DISPOSED");
    await expectError(memory.answer([20]), "DISPOSED");
    await expect(memory.dispose()).resolves.toBeUndefined();
    await expect(model.dispose()).resolves.toBeUndefined();
  });
});

describe("the error itself", () => {
  test("crosses threads and JSON with everything but its cause", () => {
    const error = new PrecisError("OPTION_INVALID", "No.", { nextStep: "Yes.", value: 3, cause: new Error("deep") });
    const copy = PrecisError.fromJSON(JSON.parse(JSON.stringify(error)) as ReturnType<PrecisError["toJSON"]>);
    expect(copy).toBeInstanceOf(PrecisError);
    expect(copy).toMatchObject({ code: "OPTION_INVALID", message: "No. Yes.", nextStep: "Yes.", value: 3 });
  });

  test("wraps others once, with what was being done", () => {
    const cause = new RangeError("too far");
    const wrapped = PrecisError.from(cause, "ENGINE_FAILED", "Walking failed", "Stop.");
    expect(wrapped).toMatchObject({ code: "ENGINE_FAILED", message: "Walking failed: too far Stop.", cause });
    expect(PrecisError.from(wrapped, "ABORTED", "Else")).toBe(wrapped);
  });
});
