/** @file `npm run bench:products`: how fast a device multiplies the matrices of a training step, by kind of product. */
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { choice, wholeNumber } from "./arguments.js";
import { median } from "./measure.js";
import { importProducts } from "./training/library.js";
import { xorshift } from "./weights/random.js";
import type { GraphBuilder, Value } from "../dist/graph/builder.js";
import type { Device } from "../dist/runtime/device.js";
import type { EngineSession } from "../dist/runtime/engine-session.js";

const HELP = `Usage: npm run bench:products -- [options]
  --device NAME   cpu (default) or webgpu
  --tokens N      rows of the left matrix (default on webgpu 15360, those of 20 rows of 768 tokens; on the CPU 512)
  --rounds N      measured rounds, in each of which all kinds take turns (default 5)
  --json          print one JSON object

A product's time is the difference between a graph with 16 of them and one with 2, so that what is uploaded and started
for every run does not count.`;

/** Products in the two graphs that are compared. */
const [MANY, FEW] = [16, 2];

/** Features of the embedded model's matrices: into the MLP, out of it, queries with keys and values, head. */
const SHAPES: readonly (readonly [inFeatures: number, outFeatures: number])[] = [
  [512, 1408],
  [1408, 512],
  [512, 1024],
  [512, 8192],
];

/** Weights of a row that share a scale, where they are quantised. */
const BLOCK_SIZE = 32;

/** A kind of product with a frozen matrix. */
interface Kind {
  name: string;
  devices: readonly Device[];
  /** Type of the left matrix, and of the right one unless that is quantised. */
  dtype: "float32" | "float16";
  bits?: 4 | 8;
  /** Of MatMulNBits; 4 lets a kernel quantise the left matrix to int8. */
  accuracyLevel?: 0 | 4;
}

const KINDS: readonly Kind[] = [
  { name: "MatMul fp32", devices: ["cpu", "webgpu"], dtype: "float32" },
  { name: "MatMul fp16", devices: ["webgpu"], dtype: "float16" },
  { name: "MatMulNBits int8, fp32", devices: ["cpu"], dtype: "float32", bits: 8, accuracyLevel: 4 },
  { name: "MatMulNBits int4, fp32", devices: ["cpu"], dtype: "float32", bits: 4, accuracyLevel: 4 },
  { name: "MatMulNBits int8, fp16", devices: ["webgpu"], dtype: "float16", bits: 8, accuracyLevel: 0 },
  { name: "MatMulNBits int8, fp16, left int8", devices: ["webgpu"], dtype: "float16", bits: 8, accuracyLevel: 4 },
  { name: "MatMulNBits int4, fp16", devices: ["webgpu"], dtype: "float16", bits: 4, accuracyLevel: 0 },
  { name: "MatMulNBits int4, fp16, left int8", devices: ["webgpu"], dtype: "float16", bits: 4, accuracyLevel: 4 },
];

type Library = Awaited<ReturnType<typeof importProducts>>;

interface Sizes {
  tokens: number;
  inFeatures: number;
  outFeatures: number;
}

function randomFloats(seed: number, count: number): Float32Array {
  const random = xorshift(seed);
  return Float32Array.from({ length: count }, () => (random() % 2001) / 1000 - 1);
}

/** `x` [tokens, in] times a random frozen matrix: [tokens, out]. */
function product(library: Library, graph: GraphBuilder, x: Value, kind: Kind, sizes: Sizes, seed: number): Value {
  const { inFeatures, outFeatures } = sizes;
  const weights = randomFloats(seed, inFeatures * outFeatures);
  if (kind.bits === undefined) {
    const bytes = library.fromFloat32(weights, kind.dtype);
    return library.matmul(graph, x, graph.weight(`w${seed}`, kind.dtype, [inFeatures, outFeatures], bytes));
  }
  const { bits } = kind;
  const { blocks, scales } = library.quantizeBlocks(weights, outFeatures, inFeatures, { bits, blockSize: BLOCK_SIZE });
  const perRow = library.blocksPerRow(inFeatures, BLOCK_SIZE);
  const weight = {
    blocks: graph.weight(`w${seed}`, "uint8", [outFeatures, perRow, (BLOCK_SIZE * bits) / 8], blocks),
    scales: graph.weight(`s${seed}`, kind.dtype, [outFeatures * perRow], library.fromFloat32(scales, kind.dtype)),
    bits,
    blockSize: BLOCK_SIZE,
    outFeatures,
    inFeatures,
  };
  return library.quantizedLinear(graph, x, weight, kind.accuracyLevel);
}

/** A graph of `count` products with one left matrix, whose output `y` is the sum of the largest values of their last rows. */
function productGraph(library: Library, kind: Kind, sizes: Sizes, count: number): GraphBuilder {
  const graph = new library.GraphBuilder("products");
  // Made on the device, since how long an upload takes varies more than the products do.
  const row = graph.floats([...randomFloats(98, sizes.inFeatures)], [1, sizes.inFeatures]);
  const x = library.cast(
    graph,
    library.mul(graph, graph.input("factors", "float32", [sizes.tokens, 1]), row),
    kind.dtype,
  );
  const largest = Array.from({ length: count }, (_, index) => {
    const y = product(library, graph, x, kind, sizes, index + 1);
    // Of one row only, so that looking at the product costs nothing beside it.
    const last = library.slice(graph, y, 0, sizes.tokens - 1, 1);
    return library.cast(graph, library.reduceMax(graph, last, [0, 1], false), "float32");
  });
  // One output, since each that is brought back costs a wait.
  const sum = largest.reduce((total, value) => library.add(graph, total, value));
  graph.output(sum, "y");
  return graph;
}

/** A kind at work: its two graphs, and the milliseconds of a product in each round. */
interface Contender {
  kind: Kind;
  many: EngineSession;
  few: EngineSession;
  times: number[];
}

async function measureShape(library: Library, device: Device, sizes: Sizes, rounds: number): Promise<Contender[]> {
  const contenders: Contender[] = [];
  for (const kind of KINDS.filter(({ devices }) => devices.includes(device))) {
    const start = (count: number): Promise<EngineSession> =>
      library.EngineSession.create(() => productGraph(library, kind, sizes, count), {
        weightsFolder: tmpdir(),
        device,
        fixedShapes: true,
      });
    contenders.push({ kind, many: await start(MANY), few: await start(FEW), times: [] });
  }
  const factors = library.floatTensor(randomFloats(99, sizes.tokens), [sizes.tokens, 1]);
  const time = async (session: EngineSession): Promise<number> => {
    const startedAt = performance.now();
    const { y } = await session.run({ factors }, ["y"]);
    const milliseconds = performance.now() - startedAt;
    if (!(Number(y?.data[0]) > 0)) throw new Error("Products of random matrices have no largest value above 0.");
    return milliseconds;
  };
  // The first round compiles kernels.
  for (let round = 0; round <= rounds; round++) {
    for (const { many, few, times } of contenders) {
      const difference = (await time(many)) - (await time(few));
      if (round > 0) times.push(difference / (MANY - FEW));
    }
  }
  for (const { many, few } of contenders) await Promise.all([many.dispose(), few.dispose()]);
  return contenders;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      device: { type: "string", default: "cpu" },
      tokens: { type: "string" },
      rounds: { type: "string", default: "5" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const device = choice("device", values.device, ["cpu", "webgpu"]);
  const tokens = wholeNumber("tokens", values.tokens ?? (device === "webgpu" ? "15360" : "512"));
  const rounds = wholeNumber("rounds", values.rounds);
  const library = await importProducts();
  const results = [];
  for (const [inFeatures, outFeatures] of SHAPES) {
    const sizes = { tokens, inFeatures, outFeatures };
    for (const { kind, times } of await measureShape(library, device, sizes, rounds)) {
      const milliseconds = median(times);
      const teraflops = (2 * tokens * inFeatures * outFeatures) / milliseconds / 1e9;
      results.push({ ...sizes, product: kind.name, milliseconds, teraflops });
    }
  }
  if (values.json) {
    console.log(JSON.stringify({ device, results }, null, 2));
    return;
  }
  for (const { inFeatures, outFeatures, product: name, milliseconds, teraflops } of results) {
    const shape = `${tokens}x${inFeatures} · ${inFeatures}x${outFeatures}`.padEnd(26);
    const rate = `${milliseconds.toFixed(3).padStart(9)} ms ${teraflops.toFixed(2).padStart(8)} TFLOP/s`;
    console.log(`${shape} ${name.padEnd(34)} ${rate}`);
  }
}

await main();
