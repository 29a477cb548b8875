/** @file Snapshots that are damaged, forged or foreign are refused, and a memory that refuses one stays as it was. */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { crc32 } from "node:zlib";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { decodeContainer } from "#precis/codec/container.js";
import type { Memory } from "#precis/index.js";
import { firstVersion } from "../codec/first-version.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { writeRandomAdapter } from "../reference/random-model.js";

let fixture: Fixture;
let memory: Memory;
let bytes: Uint8Array;
let before: unknown;
beforeAll(async () => {
  fixture = await createFixture({ seed: 51 });
  memory = await fixture.memory({ method: "ccm-merge", options: { sink: 1 } });
  await memory.append([{ role: "user", content: "Hello" }]);
  await memory.append(textIds(9));
  bytes = await memory.snapshot();
  await memory.score(textIds(4, 3));
  before = await stateOf(memory);
});
afterAll(() => fixture[Symbol.asyncDispose]());

const QUESTION = textIds(5, 2);

async function stateOf(of: Memory): Promise<unknown> {
  return [await of.stats(), await of.rows(), (await of.forward(QUESTION)).logits];
}

/** Expects the refusal of a restore, in place and anew, and that nothing came of it. */
async function expectRefusal(snapshot: Uint8Array, code: string, message?: RegExp): Promise<void> {
  const refusal = { name: "PrecisError", code, ...(message === undefined ? {} : { message }) };
  await expect(memory.restore(snapshot)).rejects.toMatchObject(refusal);
  const anew = fixture.model.restoreMemory(snapshot, { adapter: fixture.adapter.directory });
  await expect(anew).rejects.toMatchObject(refusal);
}

const sha256 = (data: Uint8Array): Buffer => createHash("sha256").update(data).digest();

/** The snapshot with its header changed and all digests made right again. */
function forge(change: (header: Record<string, unknown>) => unknown): Uint8Array {
  const length = Buffer.from(bytes).readUInt32LE(8);
  const header = JSON.parse(Buffer.from(bytes.subarray(44, 44 + length)).toString("utf8")) as Record<string, unknown>;
  const changed = change(header);
  return seal(Buffer.from(typeof changed === "string" ? changed : JSON.stringify(changed ?? header)), 44 + length);
}

function seal(header: Buffer, oldEnd: number): Uint8Array {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(header.length);
  return Buffer.concat([bytes.subarray(0, 8), size, sha256(header), header, bytes.subarray(oldEnd)]);
}

test("restores what it was made of", async () => {
  const copy = await fixture.model.restoreMemory(bytes, { adapter: fixture.adapter.directory });
  expect(copy.method).toBe("ccm-merge");
  expect(copy.options).toEqual(memory.options);
  expect(await copy.snapshot()).toEqual(bytes);
  expect(
    await stateOf(
      await fixture.model.restoreMemory(
        forge(() => undefined),
        { adapter: fixture.adapter.directory },
      ),
    ),
  ).toEqual(await stateOf(copy));
});

test("restores what the first version of the format holds, layer by layer", async () => {
  const present = await fixture.model.restoreMemory(bytes, { adapter: fixture.adapter.directory });
  const { keys, values } = await present.rows();
  const bytesOf = (rows: Float32Array): Uint8Array => new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
  const sections = [
    ...keys.map((rows, layer) => [`keys.${layer}`, bytesOf(rows)] as const),
    ...values.map((rows, layer) => [`values.${layer}`, bytesOf(rows)] as const),
  ];
  const { runSlots: _, ...header } = decodeContainer(bytes).header;
  const first = firstVersion(header, new Map(sections));
  const old = await fixture.model.restoreMemory(first, { adapter: fixture.adapter.directory });
  expect(await stateOf(old)).toEqual(await stateOf(present));
});

test("keeps the caller's bytes unless it may consume them", async () => {
  const given = bytes.slice();
  await fixture.model.restoreMemory(given, { adapter: fixture.adapter.directory });
  expect(given).toEqual(bytes);
  const consuming = { adapter: fixture.adapter.directory, consume: true };
  const copy = await fixture.model.restoreMemory(given, consuming);
  expect(given).toHaveLength(0);
  expect(await copy.snapshot()).toEqual(bytes);
  // A part of a larger buffer, which belongs to others too.
  const shared = Buffer.concat([bytes, Buffer.alloc(2 * bytes.length)]);
  await fixture.model.restoreMemory(shared.subarray(0, bytes.length), consuming);
  expect(shared).toHaveLength(3 * bytes.length);
});

describe("a damaged snapshot", () => {
  test("is refused wherever a bit flipped", async () => {
    await fc.assert(
      fc.asyncProperty(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.nat(7), async (place, bit) => {
        const damaged = bytes.slice();
        damaged[Math.floor(place * bytes.length)] ^= 1 << bit;
        await expectRefusal(damaged, "SNAPSHOT_CORRUPT");
      }),
      { numRuns: 150, examples: [0, 7, 8, 11, 12, 44].map((at) => [at / bytes.length, 0] as [number, number]) },
    );
    expect(await stateOf(memory)).toEqual(before);
  });

  test("is refused wherever it was cut off, and if it was added to", async () => {
    await fc.assert(
      fc.asyncProperty(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), async (share) => {
        await expectRefusal(bytes.subarray(0, Math.floor(share * bytes.length)), "SNAPSHOT_CORRUPT");
      }),
      { numRuns: 60, examples: [[0]] },
    );
    await expectRefusal(Buffer.concat([bytes, Buffer.of(0)]), "SNAPSHOT_CORRUPT", /bytes follow its end/);
    expect(await stateOf(memory)).toEqual(before);
  });

  test("is refused if it is anything else", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), (noise) => expectRefusal(noise, "SNAPSHOT_CORRUPT")),
      { numRuns: 40 },
    );
    await expectRefusal("PRECISM" as unknown as Uint8Array, "SNAPSHOT_CORRUPT", /append the conversation's text again/);
    const newer = bytes.slice();
    newer[7] = 3;
    await expectRefusal(newer, "SNAPSHOT_CORRUPT", /format version 3 is unknown/);
  });
});

describe("a forged snapshot, with digests that fit", () => {
  const count = (value: unknown): unknown[] => [-1, 0.5, "3", null, [], 2 ** 60, value];
  const forgeries: [field: string, values: unknown[]][] = [
    ["identity", [null, "x", [], {}, { model: 5 }]],
    ["method", [3, null, ["full"]]],
    ["options", [null, [], "sink"]],
    ["precision", ["fp8", null, 32]],
    ["slots", count(100)],
    ["runSlots", [0, -1, 0.5, "3", null, [], 1]],
    ["positions", [null, {}, [], [0, 1], ["0", "1", "2"], [0, 1, -5], [0, 1, 1.5], [0, 1, null]]],
    ["kinds", [null, [], ["text", "text"], ["text", "sink", "comp"], [0, 1, 2]]],
    ["position", count({})],
    ["tokensSeen", count(true)],
    ["steps", count("many")],
    ["openStart", count(4)],
    ["openIds", [null, {}, [-1], [1.5], ["1"], [320], [1e9]]],
    ["openPurpose", [null, "both", 1]],
    ["methodState", [null, [], {}, { merged: -1 }, { merged: "2" }, { merged: 1, more: 2 }, { merged: [1] }]],
    ["tokenChain", [null, 5]],
    [
      "messages",
      [null, [], { messages: [], started: 1 }, { messages: [{ role: "user" }], started: true }, { started: true }],
    ],
    ["sections", [null, {}, [null], [{ name: 1 }], [{ name: "keys.0", length: -1, crc32: "" }], []]],
  ];

  test.each(forgeries)("is refused for its %s", async (field, values) => {
    for (const value of values) {
      await expectRefusal(
        forge((header) => {
          header[field] = value;
        }),
        "SNAPSHOT_CORRUPT",
      );
    }
    await expectRefusal(
      forge((header) => {
        delete header[field];
      }),
      "SNAPSHOT_CORRUPT",
    );
    expect(await stateOf(memory)).toEqual(before);
  });

  test("is refused for a header that is no object, or no JSON", async () => {
    for (const header of ["null", "[]", "3", '"x"', "{", ""]) {
      await expectRefusal(
        forge(() => header),
        "SNAPSHOT_CORRUPT",
      );
    }
  });

  test("is refused for sections of other names or sizes", async () => {
    const sections = (header: Record<string, unknown>): Record<string, unknown>[] =>
      header["sections"] as Record<string, unknown>[];
    await expectRefusal(
      forge((header) => {
        sections(header)[0]["name"] = "keys.9";
      }),
      "SNAPSHOT_CORRUPT",
      /"keys.0" has 0 bytes/,
    );
    const half = forge((header) => {
      header["precision"] = "fp16";
    });
    await expectRefusal(half, "SNAPSHOT_CORRUPT", /bytes, not/);
  });

  test("is refused for rows that are not numbers", async () => {
    const length = Buffer.from(bytes).readUInt32LE(8);
    const body = Buffer.from(bytes.subarray(44 + length));
    body.writeFloatLE(Number.NaN, 8);
    const header = JSON.parse(Buffer.from(bytes.subarray(44, 44 + length)).toString("utf8")) as {
      sections: { length: number; crc32: string }[];
    };
    const sum = crc32(body.subarray(0, header.sections[0].length));
    header.sections[0].crc32 = sum.toString(16).padStart(8, "0");
    const sealed = seal(Buffer.from(JSON.stringify(header)), 44 + length);
    sealed.set(body, sealed.length - body.length);
    await expectRefusal(sealed, "SNAPSHOT_CORRUPT", /"keys.0" holds NaN/);
  });

  test("is refused as another version's for a method or option that there is not", async () => {
    const unknownMethod = forge((header) => {
      header["method"] = "telepathy";
    });
    await expectRefusal(unknownMethod, "SNAPSHOT_MISMATCH", /telepathy/);
    const unknownOption = forge((header) => {
      header["options"] = { depth: 3 };
    });
    await expectRefusal(unknownOption, "SNAPSHOT_MISMATCH", /depth/);
  });

  test("never does harm, whatever field has whatever value", async () => {
    const fields = [
      "slots",
      "positions",
      "kinds",
      "position",
      "openStart",
      "openIds",
      "methodState",
      "messages",
      "options",
    ];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...fields), fc.jsonValue({ maxDepth: 2 }), async (field, value) => {
        const forged = forge((header) => {
          header[field] = value;
        });
        const fork = await memory.fork();
        const error: unknown = await fork.restore(forged).then(
          () => undefined,
          (reason: unknown) => reason,
        );
        if (error === undefined) expect((await fork.forward(QUESTION)).logits).not.toContain(NaN);
        else expect(error).toMatchObject({ code: expect.stringMatching(/^SNAPSHOT_/) as string });
        await fork.dispose();
      }),
      { numRuns: 150 },
    );
    expect(await stateOf(memory)).toEqual(before);
  });
});

describe("a foreign snapshot", () => {
  test("of another model, dtype or adapter is refused by name", async () => {
    await using other = await createFixture({ seed: 52 });
    const foreign = other.model.restoreMemory(bytes, { adapter: other.adapter.directory });
    await expect(foreign).rejects.toMatchObject({ code: "SNAPSHOT_MISMATCH", message: /another model.*append/ });
    const adapter = writeRandomAdapter(join(fixture.scratch, "other"), { ...fixture.files.options, seed: 99 });
    const changed = fixture.model.restoreMemory(bytes, { adapter: adapter.directory });
    await expect(changed).rejects.toMatchObject({ code: "SNAPSHOT_MISMATCH", message: /another adapter/ });
    const without = fixture.model.restoreMemory(bytes);
    await expect(without).rejects.toMatchObject({ code: "SNAPSHOT_MISMATCH", message: /another adapter.*none/ });
    await using quantised = await createFixture(
      { seed: 51 },
      { dtype: "int8", cacheDir: join(fixture.scratch, "cache") },
    );
    const rounded = quantised.model.restoreMemory(bytes, { adapter: quantised.adapter.directory });
    await expect(rounded).rejects.toMatchObject({ code: "SNAPSHOT_MISMATCH", message: /another dtype.*fp32.*int8/ });
  });

  test("of another tokenizer, template or RoPE is refused by name", async () => {
    for (const field of ["tokenizer", "template", "rotary"]) {
      const forged = forge((header) => {
        (header["identity"] as Record<string, string>)[field] = "other";
      });
      await expectRefusal(forged, "SNAPSHOT_MISMATCH", new RegExp(`another ${field}`));
    }
  });

  test("of another method, or other options, does not turn a memory into something else", async () => {
    const concat = await fixture.memory({ method: "ccm-concat" });
    await expect(concat.restore(bytes)).rejects.toMatchObject({
      code: "SNAPSHOT_MISMATCH",
      message: /ccm-merge.*not ccm-concat.*model\.restoreMemory/,
    });
    const plain = await fixture.memory({ method: "ccm-merge" });
    await expect(plain.restore(bytes)).rejects.toMatchObject({ code: "SNAPSHOT_MISMATCH", message: /"sink":1/ });
    expect(concat.method).toBe("ccm-concat");
    expect(await concat.stats()).toMatchObject({ method: "ccm-concat", slots: 0 });
  });
});
