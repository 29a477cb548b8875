/** @file Streams laid out for one parallel pass: against the oracle, and against the memory that reads token by token. */

import { join } from "node:path";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { Memory } from "#precis/index.js";
import { attends } from "#precis/train/attention-mask.js";
import { padLayouts, placeLayouts } from "#precis/train/padded-batch.js";
import { layoutStream, streamRoom, type StreamMode } from "#precis/train/stream-layout.js";
import { batchLabels } from "#precis/train/training-batch.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { difference } from "../golden/compare.js";
import { decode } from "../reference/decoder.js";
import { dense } from "../reference/dense-batch.js";
import { writeRandomAdapter, type ReferenceAdapter } from "../reference/random-model.js";
import { streamTokens, type StreamOracleOptions } from "../reference/stream-oracle.js";

const IDS = { vocabSize: 320, padId: 0, bosId: 1 };
const TOLERANCE = 1e-4;

function modeOf(options: StreamOracleOptions): StreamMode {
  return { ...IDS, ...options, method: "streaming", blockTokens: 1000 };
}

describe("a stream in one pass", () => {
  const sizes = fc
    .record({
      spare: fc.integer({ min: 1, max: 12 }),
      compress: fc.integer({ min: 1, max: 6 }),
      memory: fc.integer({ min: 1, max: 6 }),
      sink: fc.nat(2),
      release: fc.constantFrom("once" as const, "gradual" as const),
      compTokens: fc.integer({ min: 1, max: 3 }),
    })
    .map(({ spare, ...rest }) => ({ ...rest, window: rest.sink + 1 + spare }));

  test("equals the oracle: ids, mask, positions, gate, labels and what predicts them", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), sizes, (length, options) => {
        const text = textIds(length);
        const layout = layoutStream(text, modeOf(options));
        const tokens = streamTokens(length, options);
        const ids = tokens.map((token) => (token.text === undefined ? 320 + (token.comp ?? 0) : text[token.text]));
        expect([...layout.inputIds]).toEqual(ids);
        expect([...layout.positionIds]).toEqual(tokens.map(({ position }) => position));
        expect([...layout.gate]).toEqual(tokens.map((token) => (token.text === undefined ? 1 : 0)));
        const { attend, seq } = dense(padLayouts([layout]));
        tokens.forEach(({ sees }, i) => {
          for (let j = 0; j < seq; j++) {
            if ((attend[i * seq + j] === 1) !== sees.has(j)) expect.fail(`attend ${i} → ${j} is ${!sees.has(j)}`);
            if (attends(layout, i, j) !== sees.has(j)) expect.fail(`attends(${i}, ${j}) is ${!sees.has(j)}`);
          }
        });
        const { rows, ids: labels } = batchLabels(padLayouts([layout]));
        const wanted = tokens.flatMap(({ text: place, remembers }, i) =>
          place !== undefined && place + 1 < length && remembers ? [[i, text[place + 1]]] : [],
        );
        expect(rows.map((at, index) => [at, labels[index]])).toEqual(wanted);
      }),
      { numRuns: 300 },
    );
  });

  test("as much text fits into a row as is promised, and not one token more", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 80 }), sizes, (rowLength, options) => {
        const mode = modeOf(options);
        const room = streamRoom(rowLength, mode);
        expect(layoutStream(textIds(room), mode).seq).toBeLessThanOrEqual(rowLength);
        expect(layoutStream(textIds(room + 1), mode).seq).toBeGreaterThan(rowLength);
      }),
    );
  });

  test("two streams in a row keep to themselves", () => {
    const mode = modeOf({ window: 8, compress: 3, memory: 2, sink: 1, release: "once", compTokens: 1 });
    const layout = layoutStream(textIds(20), mode);
    const { attend, seq } = dense(
      placeLayouts(
        [
          [
            { layout, start: 0 },
            { layout, start: layout.seq },
          ],
        ],
        2 * layout.seq,
      ),
    );
    for (let i = 0; i < seq; i++) {
      for (let j = 0; j < seq; j++) {
        const same = i >= layout.seq === j >= layout.seq;
        const expected = same && attends(layout, i % layout.seq, j % layout.seq);
        expect(attend[i * seq + j] === 1).toBe(expected);
      }
    }
  });
});

describe("one pass is what the memory computes token by token", () => {
  const CASES: readonly (Omit<StreamOracleOptions, "compTokens"> & { adapter: number })[] = [
    { window: 14, compress: 4, memory: 4, sink: 1, release: "once", adapter: 1 },
    { window: 14, compress: 5, memory: 3, sink: 0, release: "gradual", adapter: 1 },
    { window: 12, compress: 3, memory: 5, sink: 2, release: "once", adapter: 0 },
    { window: 9, compress: 2, memory: 2, sink: 1, release: "once", adapter: 2 },
    { window: 15, compress: 6, memory: 4, sink: 1, release: "gradual", adapter: 1 },
    { window: 13, compress: 2, memory: 5, sink: 1, release: "gradual", adapter: 2 },
  ];
  let fixture: Fixture;
  let short: Fixture;
  /** Adapters of 1, 2 and 3 COMP tokens. */
  let adapters: ReferenceAdapter[];
  beforeAll(async () => {
    fixture = await createFixture({ seed: 7, layers: 3 });
    // The same model, made for few positions: a stream outgrows them again and again.
    short = await createFixture({ seed: 7, layers: 3 }, { config: { max_position_embeddings: 40 } });
    adapters = [1, 2, 3].map((compTokens) =>
      writeRandomAdapter(join(fixture.scratch, `comp${compTokens}`), { ...fixture.files.options, compTokens }),
    );
  });
  afterAll(async () => {
    await fixture[Symbol.asyncDispose]();
    await short[Symbol.asyncDispose]();
  });

  function open(
    { model }: Fixture,
    { adapter, ...sizes }: (typeof CASES)[number],
    positions: "slot" | "text",
  ): Promise<Memory> {
    const { directory } = adapters[adapter];
    return model.createMemory({ method: "streaming-ccm", adapter: directory, options: { ...sizes, positions } });
  }

  /** Logits of all text in one pass, in float64. */
  function inOnePass(ids: readonly number[], { adapter, ...sizes }: (typeof CASES)[number]): number[] {
    const mode = modeOf({ ...sizes, compTokens: adapter + 1 });
    const layout = layoutStream(ids, mode);
    const { attend } = dense(padLayouts([layout]));
    const { inputIds, positionIds } = layout;
    const { logits } = decode(fixture.files, { inputIds, positionIds, attend, adapter: adapters[adapter] });
    return [...inputIds].flatMap((id, row) => (id < 320 ? [...logits.subarray(row * 320, (row + 1) * 320)] : []));
  }

  test.each(CASES)(
    "window $window, $compress at once, $memory slots, $sink sinks, release $release: logits over many compressions",
    async (sizes) => {
      const ids = [1, ...textIds(119)];
      const memory = await open(fixture, sizes, "text");
      const logits: number[] = [];
      for (let start = 0, length = 1; start < ids.length; start += length, length = 1 + ((length * 7) % 31)) {
        const piece = ids.slice(start, start + length);
        logits.push(...(await memory.forward(piece)).logits);
        await memory.append(piece);
      }
      expect(difference(logits, inOnePass(ids, sizes))).toBeLessThan(TOLERANCE);
      expect((await memory.stats()).position).toBe(ids.length);
    },
  );

  test("numbered by slots, it is something else", async () => {
    const ids = [1, ...textIds(59)];
    const [sizes] = CASES;
    const { logits } = await (await open(fixture, sizes, "slot")).forward(ids);
    expect(difference(logits, inOnePass(ids, sizes))).toBeGreaterThan(100 * TOLERANCE);
  });

  test("positions start again before the model's limit, which changes nothing: only distances count", async () => {
    const ids = [1, ...textIds(199)];
    const sizes = CASES[1];
    const memory = await open(short, sizes, "text");
    const { logits } = await memory.forward(ids);
    expect(difference(logits, inOnePass(ids, sizes))).toBeLessThan(TOLERANCE);
    for (const id of ids) {
      await memory.append([id]);
      const { positions } = await memory.rows();
      expect(Math.max(...positions)).toBeLessThan(40);
      expect(Math.min(...positions)).toBeGreaterThanOrEqual(0);
    }
  });

  test("sinks stay where they are, and never get farther than the model's limit", async () => {
    const memory = await open(short, CASES[0], "text");
    for (const id of [1, ...textIds(150)]) {
      await memory.append([id]);
      const { kinds, positions } = await memory.rows();
      expect(positions[0]).toBe(0);
      expect((await memory.stats()).position).toBeLessThanOrEqual(40);
      const text = positions.filter((_, slot) => kinds[slot] === "text");
      expect(text.every((position, index) => index === 0 || position === text[index - 1] + 1)).toBe(true);
    }
  });

  test("a snapshot goes on as the memory does", async () => {
    const memory = await open(short, CASES[0], "text");
    await memory.append(textIds(70));
    const { directory } = adapters[CASES[0].adapter];
    const restored = await short.model.restoreMemory(await memory.snapshot(), { adapter: directory });
    const next = textIds(40, 3);
    expect((await restored.forward(next)).logits).toEqual((await memory.forward(next)).logits);
  });
});
