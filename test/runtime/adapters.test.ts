/** @file Adapters at work: ordinary LoRA, conditional LoRA, several at once, and what does not fit. */

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import type { CreateMemoryOptions, Memory } from "#precis/index.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { difference } from "../golden/compare.js";
import { decode } from "../reference/decoder.js";
import { adapterKey, writeRandomAdapter, type ReferenceAdapter } from "../reference/random-model.js";

const IDS = textIds(19);
const TOLERANCE = 1e-4;
let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

/** A further random adapter; with `ordinary`, without COMP tokens, as PEFT itself would write it. */
function writeAdapter(name: string, seed: number, ordinary = false): ReferenceAdapter {
  const adapter = writeRandomAdapter(join(fixture.scratch, name), { ...fixture.files.options, seed });
  if (ordinary) {
    const file = join(adapter.directory, "adapter_config.json");
    const { precis: _, ...config } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
    writeFileSync(file, JSON.stringify(config));
    rmSync(join(adapter.directory, "comp_embeddings.safetensors"));
  }
  return adapter;
}

/** The model's weights with the LoRA added to them. */
function merged({ weights, r, scale }: ReferenceAdapter): Map<string, Float32Array> {
  const result = new Map(fixture.files.weights);
  for (let layer = 0; layer < fixture.files.options.layers; layer++) {
    for (const projection of ["q_proj", "k_proj", "v_proj", "o_proj"]) {
      const a = weights.get(adapterKey(layer, projection, "A")) as Float32Array;
      const b = weights.get(adapterKey(layer, projection, "B")) as Float32Array;
      const name = `model.layers.${layer}.self_attn.${projection}.weight`;
      const inputs = a.length / r;
      const sum = (result.get(name) as Float32Array).map((weight, at) => {
        const [row, column] = [Math.floor(at / inputs), at % inputs];
        let delta = 0;
        for (let k = 0; k < r; k++) delta += b[row * r + k] * a[k * inputs + column];
        return weight + scale * delta;
      });
      result.set(name, sum);
    }
  }
  return result;
}

async function logitsOf(memory: Memory, ids: readonly number[] = IDS): Promise<Float32Array> {
  return (await memory.forward(ids)).logits;
}

test("an ordinary LoRA acts on every token, as if merged into the weights", async () => {
  const ordinary = writeAdapter("ordinary", 3, true);
  const memory = await fixture.model.createMemory({ adapter: ordinary.directory });
  expect(memory.adapter).toMatchObject({ gated: false, method: undefined });
  const { config } = fixture.files;
  const expected = decode({ config, weights: merged(ordinary) }, { inputIds: IDS }).logits;
  expect(difference(await logitsOf(memory), expected)).toBeLessThan(TOLERANCE);
  await memory.append(IDS.slice(0, 7));
  expect(difference(await logitsOf(memory, IDS.slice(7)), expected.subarray(7 * 320))).toBeLessThan(TOLERANCE);
});

test("a conditional LoRA leaves text as the base model reads it, to the last bit", async () => {
  const base = await logitsOf(await fixture.model.createMemory());
  const memory = await fixture.model.createMemory({ method: "full", adapter: fixture.adapter.directory });
  expect(memory.adapter).toMatchObject({ gated: true, method: "ccm-concat", compTokens: 2 });
  expect(await logitsOf(memory)).toEqual(base);
});

test("an adapter brings the method and the options that it was trained with", async () => {
  const { directory } = writeAdapter("trained", 8);
  const file = join(directory, "adapter_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as { precis: object };
  writeFileSync(file, JSON.stringify({ ...config, precis: { ...config.precis, options: { recursive: false } } }));
  const create = (choice: CreateMemoryOptions): Promise<Memory> =>
    fixture.model.createMemory({ ...choice, adapter: directory });
  const memory = await create({});
  expect(memory.method).toBe("ccm-concat");
  expect(memory.options).toMatchObject({ recursive: false, sink: 0, limit: 0 });
  expect((await create({ options: { recursive: true } })).options).toMatchObject({
    recursive: true,
    sink: 0,
    limit: 0,
  });
  expect((await create({ method: "ccm-merge" })).options).toMatchObject({ recursive: true });
});

test("adapters of one model take turns without a reload", async () => {
  const [one, two] = [writeAdapter("one", 4, true), writeAdapter("two", 5, true)];
  const reference = (adapter: ReferenceAdapter | undefined): Float64Array =>
    decode(fixture.files, { inputIds: IDS, adapter, gate: IDS.map(() => 1) }).logits;
  const pairs: [Memory, Float64Array][] = [];
  for (const adapter of [one, two, undefined]) {
    const memory = await fixture.model.createMemory({ method: "full", adapter: adapter?.directory });
    pairs.push([memory, reference(adapter)]);
  }
  for (let round = 0; round < 2; round++) {
    for (const [memory, expected] of pairs) {
      expect(difference(await logitsOf(memory), expected)).toBeLessThan(TOLERANCE);
    }
  }
});

test("memories of different adapters answer at the same time", async () => {
  const [one, two] = [writeAdapter("three", 6, true), writeAdapter("four", 7, true)];
  const answer = async (adapter: string | undefined): Promise<number[]> => {
    const memory = await fixture.model.createMemory({ method: "full", adapter });
    return (await memory.answer(IDS, { maxTokens: 12, ignoreEos: true })).tokenIds;
  };
  const adapters = [one.directory, undefined, two.directory, one.directory];
  const alone: number[][] = [];
  for (const adapter of adapters) alone.push(await answer(adapter));
  expect(await Promise.all(adapters.map(answer))).toEqual(alone);
  expect(alone[3]).toEqual(alone[0]);
  expect(alone[1]).not.toEqual(alone[0]);
});

test("an adapter may be loaded while another memory answers", async () => {
  await using fresh = await createFixture({ seed: 12 });
  const wanted = await (await fresh.memory()).answer(IDS, { maxTokens: 400, ignoreEos: true });
  for (let round = 0; round < 3; round++) {
    await using model = await createFixture({ seed: 12 });
    const memory = await model.memory();
    const answer = memory.answer(IDS, { maxTokens: 400, ignoreEos: true });
    const compressed = await model.memory({ method: "ccm-concat" });
    await compressed.append(IDS);
    expect((await answer).tokenIds).toEqual(wanted.tokenIds);
    expect(await compressed.stats()).toMatchObject({ slots: 2, steps: 1 });
  }
});
