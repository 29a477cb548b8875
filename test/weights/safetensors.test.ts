/** @file Safetensors files: what is written reads back, and every kind of damage is named. */
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fc } from "../property.js";
import { describe, expect, test } from "vitest";
import { BYTES_PER_ELEMENT, elementCount, floatToHalf, type DType } from "#precis/tensor/dtype.js";
import {
  decodeSafetensors,
  encodeSafetensors,
  readSafetensorsHeader,
  readTensor,
  readTensorBytes,
  SafetensorsWriter,
  writeSafetensors,
  type TensorData,
} from "#precis/weights/safetensors.js";
import { floats, rawSafetensors, temporaryFolder, writeFiles } from "./folders.js";

const ENTRY = { dtype: "F32", shape: [2], data_offsets: [0, 8] };

/** Reads the header of a file with these bytes. */
async function readBytes(bytes: Uint8Array): Promise<unknown> {
  await using folder = await temporaryFolder();
  await writeFiles(folder.path, { "w.safetensors": bytes });
  return await readSafetensorsHeader(join(folder.path, "w.safetensors"));
}

describe("a file that was written reads back", () => {
  const dtypes = Object.keys(BYTES_PER_ELEMENT) as DType[];
  const tensor: fc.Arbitrary<TensorData> = fc
    .tuple(fc.constantFrom(...dtypes), fc.array(fc.nat(4), { maxLength: 3 }))
    .chain(([dtype, shape]) => {
      const length = elementCount(shape) * BYTES_PER_ELEMENT[dtype];
      return fc.uint8Array({ minLength: length, maxLength: length }).map((data) => ({ dtype, shape, data }));
    });
  const files = fc
    .dictionary(fc.string({ unit: "grapheme" }), tensor, { maxKeys: 5 })
    .filter((entries) => !("__metadata__" in entries));

  test("in memory, for any names, types, shapes and contents", () => {
    fc.assert(
      fc.property(files, (entries) => {
        const decoded = decodeSafetensors(encodeSafetensors(entries));
        expect([...decoded.keys()].sort()).toEqual(Object.keys(entries).sort());
        for (const [name, { dtype, shape, data }] of Object.entries(entries)) {
          expect(decoded.get(name)).toEqual({ dtype, shape, data });
        }
      }),
      { numRuns: 100 },
    );
  });

  test("on disk, with metadata, values and parts of tensors", async () => {
    await using folder = await temporaryFolder();
    const file = join(folder.path, "deep", "w.safetensors");
    const halves = Uint16Array.from([1.5, -0.25], floatToHalf);
    const written = {
      flags: { dtype: "bool", shape: [3], data: Uint8Array.of(1, 0, 1) },
      half: { dtype: "float16", shape: [2], data: halves },
      brain: { dtype: "bfloat16", shape: [1], data: Uint16Array.of(0xc020) },
      matrix: floats([2, 2], [1, 2, 3, 4]),
      ids: { dtype: "int64", shape: [2], data: BigInt64Array.of(-7n, 9n) },
    } satisfies Record<string, TensorData>;
    await writeSafetensors(file, written, { format: "pt" });

    const { tensors, metadata } = await readSafetensorsHeader(file);
    expect(metadata).toEqual({ format: "pt" });
    const values: Record<string, number[]> = {};
    for (const [name, entry] of tensors) values[name] = [...(await readTensor(entry))];
    expect(values).toEqual({
      flags: [1, 0, 1],
      half: [1.5, -0.25],
      brain: [-2.5],
      matrix: [1, 2, 3, 4],
      ids: [-7, 9],
    });
    const matrix = tensors.get("matrix")!;
    expect([...(await readTensorBytes(matrix, { start: 4, end: 8 }))]).toEqual([0, 0, 0, 0x40]);
    await expect(readTensorBytes(matrix, { start: 8, end: 17 })).rejects.toThrow(/Bytes 8 to 17 .*"matrix".*16 bytes/);
  });

  test("data starts at a multiple of 64 bytes and each tensor at a multiple of its element size", async () => {
    await using folder = await temporaryFolder();
    const file = join(folder.path, "w.safetensors");
    const odd: TensorData = { dtype: "uint8", shape: [3], data: new Uint8Array(3) };
    await writeSafetensors(file, {
      odd,
      after: floats([1], [1]),
      wide: { ...odd, dtype: "int64", shape: [0], data: new Uint8Array() },
    });
    const { tensors } = await readSafetensorsHeader(file);
    expect(Math.min(...[...tensors.values()].map((entry) => entry.offset)) % 64).toBe(0);
    for (const entry of tensors.values()) expect(entry.offset % BYTES_PER_ELEMENT[entry.dtype]).toBe(0);
  });
});

describe("a damaged file is refused with the reason", () => {
  test.each<[string, Uint8Array, RegExp]>([
    ["empty", new Uint8Array(0), /truncated: it has 0 bytes/],
    [
      "cut in the header",
      rawSafetensors({ w: ENTRY }, 8).subarray(0, 20),
      /truncated: expected 62 bytes.*found 20.*Download it again/,
    ],
    ["cut in the data", rawSafetensors({ w: ENTRY }, 5), /truncated: expected 70 bytes, found 67.*Download it again/],
    ["longer than described", rawSafetensors({ w: ENTRY }, 9), /71 bytes long, but its header describes 70/],
    ["a Git LFS pointer", Buffer.from("version https://git-lfs.github.com/spec/v1\n"), /Git LFS pointer.*git lfs pull/],
    ["another format", Buffer.from("GGUF\x03\0\0\0........"), /not a safetensors file/],
    ["not JSON", rawSafetensors("{nope}", 0), /header is not JSON/],
    ["an array", rawSafetensors([], 0), /not a JSON object/],
    [
      "bytes that do not fit the shape",
      rawSafetensors({ w: { ...ENTRY, shape: [3] } }, 8),
      /"w" 8 bytes, but F32 \[3\] needs 12/,
    ],
    ["a negative size", rawSafetensors({ w: { ...ENTRY, shape: [-2] } }, 8), /"w" the shape \[-2\]/],
    [
      "offsets in the wrong order",
      rawSafetensors({ w: { ...ENTRY, data_offsets: [8, 0] } }, 8),
      /"w" the offsets \[8,0\]/,
    ],
    ["overlapping tensors", rawSafetensors({ v: ENTRY, w: { ...ENTRY, data_offsets: [4, 12] } }, 12), /"w" overlaps/],
    ["a gap", rawSafetensors({ w: { ...ENTRY, data_offsets: [4, 12] } }, 12), /"w" leaves a gap/],
    [
      "an unsupported type",
      rawSafetensors({ w: { ...ENTRY, dtype: "F8_E4M3" } }, 8),
      /"w" as F8_E4M3, which is not supported/,
    ],
    ["metadata that is not text", rawSafetensors({ __metadata__: { a: 1 } }, 0), /__metadata__/],
  ])("%s", async (_kind, bytes, message) => {
    await expect(readBytes(bytes)).rejects.toMatchObject({
      code: "WEIGHTS_INVALID",
      message: expect.stringMatching(message),
    });
    expect(() => decodeSafetensors(bytes)).toThrow(message);
  });

  test("missing", async () => {
    const error = { code: "FILE_NOT_FOUND", message: expect.stringMatching(/nowhere\.safetensors.*precis pull/) };
    await expect(readSafetensorsHeader("nowhere.safetensors")).rejects.toMatchObject(error);
  });

  test("cut after its header was read", async () => {
    await using folder = await temporaryFolder();
    const file = join(folder.path, "w.safetensors");
    await writeSafetensors(file, { w: floats([4], [1, 2, 3, 4]) });
    const entry = (await readSafetensorsHeader(file)).tensors.get("w")!;
    await writeFile(file, (await readFile(file)).subarray(0, -4));
    await expect(readTensor(entry)).rejects.toThrow(/truncated: expected .* found/);
  });
});

describe("the writer", () => {
  const specs = [
    { name: "a", dtype: "uint8", shape: [4] },
    { name: "b", dtype: "float32", shape: [1] },
  ] as const;

  test("takes pieces in any order of tensors", async () => {
    await using folder = await temporaryFolder();
    await using writer = await SafetensorsWriter.create(join(folder.path, "w.safetensors"), specs);
    await writer.write("a", Uint8Array.of(1, 2));
    await writer.write("b", Float32Array.of(5));
    await writer.write("a", Uint8Array.of(3, 4));
    const tensors = await writer.finish();
    expect([...(await readTensor(tensors.get("a")!))]).toEqual([1, 2, 3, 4]);
    expect([...(await readTensor(tensors.get("b")!))]).toEqual([5]);
    expect(await readdir(folder.path)).toEqual(["w.safetensors"]);
  });

  test("leaves the old file and nothing else when given up", async () => {
    await using folder = await temporaryFolder();
    const file = join(folder.path, "w.safetensors");
    await writeSafetensors(file, { old: floats([1], [1]) });
    {
      await using writer = await SafetensorsWriter.create(file, specs);
      await writer.write("a", Uint8Array.of(1));
    }
    expect(await readdir(folder.path)).toEqual(["w.safetensors"]);
    expect([...(await readSafetensorsHeader(file)).tensors.keys()]).toEqual(["old"]);
  });

  test("refuses too much, too little, unknown names and use after the end", async () => {
    await using folder = await temporaryFolder();
    const writer = await SafetensorsWriter.create(join(folder.path, "w.safetensors"), specs);
    await expect(writer.write("a", new Uint8Array(5))).rejects.toThrow(/"a" has 4 bytes but was given 5/);
    await expect(writer.write("c", new Uint8Array(1))).rejects.toThrow(/"c" was not declared/);
    await expect(writer.finish()).rejects.toThrow(/"b" has 4 bytes but was given only 0|"a" has 4 bytes .* only 0/);
    await writer.abort();
    await expect(writer.finish()).rejects.toMatchObject({ code: "DISPOSED" });
  });

  test("refuses data that does not fit the shape, repeated and reserved names", () => {
    expect(() => encodeSafetensors({ w: floats([3], [1]) })).toThrow(/"w" has 4 bytes; float32 \[3\] needs 12/);
    expect(() => encodeSafetensors({ __metadata__: floats([1], [1]) })).toThrow(/reserved/);
    expect(() => encodeSafetensors({ w: floats([1.5], [1]) })).toThrow(/shape \[1.5\]/);
  });
});
