/** @file Quantisation: small errors, the engine reads our layout, and cached copies are reused, rebuilt and atomic. */
import { access, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { describe, expect, test } from "vitest";
import { GraphBuilder } from "#precis/graph/builder.js";
import { quantizedLinear } from "#precis/graph/ops/linalg.js";
import { floatToHalf } from "#precis/tensor/dtype.js";
import { openCheckpoint, type Checkpoint } from "#precis/weights/checkpoint.js";
import {
  convertCheckpoint,
  quantizeBlocks,
  quantizeCheckpoint,
  type BlockFormat,
  type DeriveEvent,
  type QuantizedBlocks,
} from "#precis/weights/quantize.js";
import { readTensor, readTensorBytes, type TensorData } from "#precis/weights/safetensors.js";
import { floats, noise, temporaryFolder, writeModel } from "./folders.js";

/** The matrix [out, in] that quantised blocks stand for. */
function dequantize({ blocks, scales }: QuantizedBlocks, inFeatures: number, format: BlockFormat): Float32Array {
  const { bits, blockSize } = format;
  const perRow = Math.ceil(inFeatures / blockSize);
  const codeAt = (index: number): number => {
    if (bits === 8) return (blocks[index] as number) - 128;
    return (((blocks[index >> 1] as number) >> ((index & 1) * 4)) & 15) - 8;
  };
  return Float32Array.from({ length: (scales.length / perRow) * inFeatures }, (_, element) => {
    const block = Math.floor(element / inFeatures) * perRow + Math.floor((element % inFeatures) / blockSize);
    return codeAt(block * blockSize + ((element % inFeatures) % blockSize)) * (scales[block] as number);
  });
}

/** Root mean square of the difference, relative to that of `expected`. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  const energy = (values: Float32Array): number => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(energy(actual.map((value, i) => value - (expected[i] as number))) / energy(expected));
}

/** Plain rounding with the largest value at −8, as llama.cpp's Q4_0 does. */
function plainRounding(weights: Float32Array, blockSize: number): Float32Array {
  const result = new Float32Array(weights.length);
  for (let start = 0; start < weights.length; start += blockSize) {
    const block = weights.subarray(start, start + blockSize);
    const scale = block.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0) / -8;
    block.forEach((value, i) => {
      result[start + i] = scale * (Math.min(15, Math.max(0, Math.floor(value / scale + 8.5))) - 8);
    });
  }
  return result;
}

describe("quantised blocks", () => {
  test("4 bits lose less than plain rounding does, 8 bits less than 1 %", () => {
    const weights = noise(64 * 256);
    const error = (bits: 4 | 8): number => {
      const format: BlockFormat = { bits, blockSize: 32 };
      return relativeError(dequantize(quantizeBlocks(weights, 64, 256, format), 256, format), weights);
    };
    const plain = relativeError(plainRounding(weights, 32), weights);
    expect(error(4)).toBeLessThan(0.96 * plain);
    expect(error(4)).toBeLessThan(0.09);
    expect(error(8)).toBeLessThan(0.007);
  });

  test("values on the grid survive exactly: zeros, one value, and every code", () => {
    const codes = Float32Array.from({ length: 16 }, (_, i) => (i - 8) * 0.25);
    const row = Float32Array.of(...new Float32Array(16), ...new Float32Array(15), 3, ...codes);
    for (const bits of [4, 8] as const) {
      const format: BlockFormat = { bits, blockSize: 16 };
      // Adding 0 turns the -0 of a negative scale into 0.
      const actual = dequantize(quantizeBlocks(row, 1, 48, format), 48, format).map((value) => value + 0);
      expect(actual).toEqual(row);
    }
  });

  test("the last block of a row is filled up with zeros", () => {
    const format: BlockFormat = { bits: 4, blockSize: 32 };
    const weights = noise(3 * 40);
    const quantized = quantizeBlocks(weights, 3, 40, format);
    expect(quantized.blocks.length).toBe(3 * 2 * 16);
    expect([...quantized.blocks.subarray(20, 32)]).toEqual(Array<number>(12).fill(0x88));
    expect(relativeError(dequantize(quantized, 40, format), weights)).toBeLessThan(0.09);
  });

  test.each<[string, Float32Array, BlockFormat, string, RegExp]>([
    [
      "NaN at 4 bits",
      noise(64).with(40, NaN),
      { bits: 4, blockSize: 32 },
      "WEIGHTS_INVALID",
      /row 1 at or after column 0/,
    ],
    ["NaN at 8 bits", noise(64).with(40, NaN), { bits: 8, blockSize: 32 }, "WEIGHTS_INVALID", /row 1/],
    ["infinity at 4 bits", noise(64).with(3, -Infinity), { bits: 4, blockSize: 32 }, "WEIGHTS_INVALID", /row 0/],
    ["infinity at 8 bits", noise(64).with(3, Infinity), { bits: 8, blockSize: 32 }, "WEIGHTS_INVALID", /row 0/],
    ["a wrong count", noise(63), { bits: 4, blockSize: 32 }, "INPUT_INVALID", /\[2, 32\] cannot have 63/],
    ["3 bits", noise(64), { bits: 3 as 4, blockSize: 32 }, "OPTION_INVALID", /3 bits. Use 4 or 8/],
    ["blocks of 24", noise(64), { bits: 4, blockSize: 24 }, "OPTION_INVALID", /blocks of 24/],
  ])("refuse %s", (_kind, weights, format, code, message) => {
    const quantize = (): unknown => quantizeBlocks(weights, 2, 32, format);
    expect(quantize).toThrow(message);
    expect(quantize).toThrow(expect.objectContaining({ code }));
  });

  test.each<BlockFormat & { inFeatures: number }>([
    { bits: 4, blockSize: 32, inFeatures: 128 },
    { bits: 8, blockSize: 32, inFeatures: 128 },
    { bits: 4, blockSize: 32, inFeatures: 80 },
    { bits: 8, blockSize: 64, inFeatures: 96 },
  ])(
    "MatMulNBits reads them: $bits bits, blocks of $blockSize, $inFeatures inputs",
    async ({ inFeatures, ...format }) => {
      const [rows, outFeatures] = [3, 48];
      const quantized = quantizeBlocks(noise(outFeatures * inFeatures), outFeatures, inFeatures, format);
      const input = noise(rows * inFeatures, 7);
      const actual = await runQuantizedLinear(input, quantized, { ...format, inFeatures, outFeatures });
      const matrix = dequantize(quantized, inFeatures, format);
      const expected = Float32Array.from({ length: rows * outFeatures }, (_, index) => {
        const [row, column] = [Math.floor(index / outFeatures), index % outFeatures];
        const weights = matrix.subarray(column * inFeatures, (column + 1) * inFeatures);
        return weights.reduce((sum, weight, i) => sum + weight * (input[row * inFeatures + i] as number), 0);
      });
      // The kernel rounds activations to 8 bits: about half a percent. A wrong layout would be wrong by 100 %.
      expect(relativeError(actual, expected)).toBeLessThan(0.015);
    },
  );
});

/** One quantised linear layer, run by ONNX Runtime on the CPU. */
async function runQuantizedLinear(
  input: Float32Array,
  { blocks, scales }: QuantizedBlocks,
  sizes: BlockFormat & { inFeatures: number; outFeatures: number },
): Promise<Float32Array> {
  const { bits, blockSize, inFeatures, outFeatures } = sizes;
  const perRow = Math.ceil(inFeatures / blockSize);
  const graph = new GraphBuilder("linear");
  const weight = {
    ...sizes,
    blocks: graph.weight("blocks", "uint8", [outFeatures, perRow, (blockSize * bits) / 8], blocks),
    scales: graph.weight("scales", "float32", [scales.length], new Uint8Array(scales.buffer)),
  };
  graph.output(quantizedLinear(graph, graph.input("x", "float32", ["rows", inFeatures]), weight), "y");
  const session = await InferenceSession.create(graph.encode());
  const x = new Tensor("float32", input, [input.length / inFeatures, inFeatures]);
  const { y } = await session.run({ x });
  return y!.data as Float32Array;
}

describe("a quantised checkpoint", () => {
  const [q, k, norm] = [noise(8 * 64, 1), noise(4 * 64, 2), noise(64, 3)];
  const TENSORS: Record<string, TensorData> = {
    "q.weight": floats([8, 64], q),
    "k.weight": {
      dtype: "bfloat16",
      shape: [4, 64],
      data: Uint16Array.from(new Uint32Array(k.buffer), (bits) => bits >>> 16),
    },
    "norm.weight": { dtype: "float16", shape: [64], data: Uint16Array.from(norm, floatToHalf) },
  };
  const PLAN = { linears: [{ name: "qk.weight", parts: ["q.weight", "k.weight"] }], kept: ["norm.weight"] };

  /** Runs `body` on a checkpoint with these tensors and an empty cache folder. */
  async function withModel(
    body: (checkpoint: Checkpoint, cacheDir: string) => Promise<void>,
    tensors: Record<string, TensorData> = TENSORS,
  ): Promise<void> {
    await using folder = await temporaryFolder();
    await writeModel(join(folder.path, "model"), tensors);
    await body(await openCheckpoint(join(folder.path, "model")), join(folder.path, "cache"));
  }

  test("stacks the rows of the parts and keeps the rest as stored", () =>
    withModel(async (checkpoint, cacheDir) => {
      const { tensors, ...rest } = await quantizeCheckpoint(checkpoint, PLAN, { bits: 4, cacheDir });
      expect(rest).toMatchObject({ bits: 4, blockSize: 32, file: expect.stringContaining("-int4-b32-") });
      const blocks = tensors.get("qk.weight.blocks")!;
      expect(blocks).toMatchObject({ dtype: "uint8", shape: [12, 2, 16] });
      const scales = tensors.get("qk.weight.scales")!;
      expect(scales).toMatchObject({ dtype: "float32", shape: [24] });
      const quantized = { blocks: await readTensorBytes(blocks), scales: await readTensor(scales) };
      const matrix = dequantize(quantized, 64, { bits: 4, blockSize: 32 });
      expect(relativeError(matrix, Float32Array.of(...q, ...k))).toBeLessThan(0.09);
      const kept = tensors.get("norm.weight")!;
      expect(kept.dtype).toBe("float16");
      expect(await readTensor(kept)).toEqual(await readTensor(checkpoint.tensors.get("norm.weight")!));
    }));

  test("has a matrix turned where asked, as if the transpose had been stored", () =>
    withModel(async (checkpoint, cacheDir) => {
      const turned = { name: "q.turned", parts: ["q.weight"], turned: true };
      const { tensors } = await quantizeCheckpoint(checkpoint, { linears: [turned], kept: [] }, { bits: 8, cacheDir });
      const transpose = Float32Array.from({ length: 64 * 8 }, (_, i) => q[(i % 8) * 64 + Math.floor(i / 8)] as number);
      const expected = quantizeBlocks(transpose, 64, 8, { bits: 8, blockSize: 32 });
      expect(tensors.get("q.turned.blocks")).toMatchObject({ shape: [64, 1, 32] });
      expect(await readTensorBytes(tensors.get("q.turned.blocks")!)).toEqual(expected.blocks);
      expect(await readTensor(tensors.get("q.turned.scales")!)).toEqual(expected.scales);
    }));

  test("refuses to turn a stack", () =>
    withModel(async (checkpoint, cacheDir) => {
      const plan = { linears: [{ name: "qk", parts: ["q.weight", "k.weight"], turned: true }], kept: [] };
      const error = await quantizeCheckpoint(checkpoint, plan, { bits: 8, cacheDir }).catch(
        (reason: unknown) => reason,
      );
      expect(error).toMatchObject({ code: "WEIGHTS_INVALID", message: expect.stringContaining('"qk"') });
    }));

  test("is made once, with progress, and again only if the cached file is damaged or of another plan", () =>
    withModel(async (checkpoint, cacheDir) => {
      const events: DeriveEvent[] = [];
      const make = async (plan = PLAN): Promise<string> => {
        events.length = 0;
        const onProgress = (event: DeriveEvent): unknown => events.push(event);
        return (await quantizeCheckpoint(checkpoint, plan, { bits: 8, cacheDir, onProgress })).file;
      };
      const file = await make();
      expect(events.map(({ tensor }) => tensor)).toEqual(["q.weight", "k.weight", "norm.weight"]);
      expect(events.at(-1)).toMatchObject({ done: 2688, total: 2688 });
      const content = await readFile(file);

      await make();
      expect(events).toEqual([]);

      await writeFile(file, content.subarray(0, -1));
      expect(await make()).toBe(file);
      expect(events).toHaveLength(3);
      expect(await readFile(file)).toEqual(content);

      expect(await make({ ...PLAN, kept: [] })).not.toBe(file);
      expect(events).toHaveLength(2);
    }));

  test("is whole when several callers make it at once", () =>
    withModel(async (checkpoint, cacheDir) => {
      const made = await Promise.all([1, 2, 3].map(() => quantizeCheckpoint(checkpoint, PLAN, { bits: 4, cacheDir })));
      expect(await readdir(join(cacheDir, "quantized"))).toHaveLength(1);
      expect(await readTensor(made[0]!.tensors.get("norm.weight")!)).toHaveLength(64);
    }));

  test("leaves nothing behind when aborted half way", () =>
    withModel(async (checkpoint, cacheDir) => {
      const controller = new AbortController();
      const options = { bits: 4, cacheDir, signal: controller.signal, onProgress: () => controller.abort() } as const;
      await expect(quantizeCheckpoint(checkpoint, PLAN, options)).rejects.toMatchObject({ code: "ABORTED" });
      expect(await readdir(join(cacheDir, "quantized"))).toEqual([]);
    }));

  test("lies in the folder that $PRECIS_CACHE or $XDG_CACHE_HOME names", () =>
    withModel(async (checkpoint, cacheDir) => {
      const saved = { ...process.env };
      try {
        process.env.PRECIS_CACHE = cacheDir;
        const own = await quantizeCheckpoint(checkpoint, PLAN, { bits: 4 });
        expect(own.file.startsWith(join(cacheDir, "quantized"))).toBe(true);
        delete process.env.PRECIS_CACHE;
        process.env.XDG_CACHE_HOME = cacheDir;
        const shared = await quantizeCheckpoint(checkpoint, PLAN, { bits: 4 });
        expect(shared.file.startsWith(join(cacheDir, "precis", "quantized"))).toBe(true);
      } finally {
        process.env = saved;
      }
    }));

  test.each<[string, typeof PLAN, RegExp]>([
    ["a missing tensor", { linears: [], kept: ["v.weight"] }, /lack the tensor "v.weight"/],
    ["a vector", { linears: [{ name: "n", parts: ["norm.weight"] }], kept: [] }, /"norm.weight" is float16 \[64\]/],
    ["no parts", { linears: [{ name: "n", parts: [] }], kept: [] }, /"n" cannot be stacked from no parts/],
    [
      "rows of two lengths",
      { linears: [{ name: "n", parts: ["q.weight", "o"] }], kept: [] },
      /q.weight \[8, 64\], o \[2, 2\]/,
    ],
    ["NaN", { linears: [{ name: "n", parts: ["bad"] }], kept: [] }, /"bad" in .* is NaN or infinite/],
  ])("is refused for %s in the plan, with no file written", (_kind, plan, message) =>
    withModel(
      async (checkpoint, cacheDir) => {
        const error = { code: "WEIGHTS_INVALID", message: expect.stringMatching(message) };
        await expect(quantizeCheckpoint(checkpoint, plan, { bits: 4, cacheDir })).rejects.toMatchObject(error);
        const folder = join(cacheDir, "quantized");
        const left = await access(folder).then(
          () => readdir(folder),
          () => [],
        );
        expect(left).toEqual([]);
      },
      { ...TENSORS, o: floats([2, 2], [1, 2, 3, 4]), bad: floats([1, 2], [0, NaN]) },
    ),
  );

  test("in half precision has the same values, rounded, and keeps integers", () =>
    withModel(
      async (checkpoint, cacheDir) => {
        const names = ["q.weight", "norm.weight", "ids"];
        const { tensors } = await convertCheckpoint(checkpoint, names, "float16", { cacheDir });
        expect([...tensors.values()].map((entry) => entry.dtype).sort()).toEqual(["float16", "float16", "int32"]);
        expect(relativeError(await readTensor(tensors.get("q.weight")!), q)).toBeLessThan(5e-4);
        expect([...(await readTensor(tensors.get("ids")!))]).toEqual([70_000]);
        const wide = convertCheckpoint(checkpoint, ["wide"], "float16", { cacheDir });
        await expect(wide).rejects.toThrow(/"wide" in .* is 70000, which float16 cannot hold/);
      },
      { ...TENSORS, ids: { dtype: "int32", shape: [1], data: Int32Array.of(70_000) }, wide: floats([1], [70_000]) },
    ));
});
