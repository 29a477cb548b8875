/** @file `npm run bench:train -- --count`: the nodes of a training step by operator, without running it. */
import type { GraphBuilder, GraphNode, Value } from "../../dist/graph/builder.js";
import { importTraining } from "./library.js";
import { trainingSpec, type WorkloadOptions } from "./workload.js";

/** Ops that move nothing: a device is asked for no kernel. */
const FREE: ReadonlySet<string> = new Set(["Reshape"]);

/** Nodes of one operator. */
interface OperatorCount {
  /** As the graph is built. */
  built: number;
  /** Of these, what is left to do at every step. */
  remaining: number;
  /** Read and written by the nodes that remain, in megabytes, by the shapes they were built with. */
  megabytes: number;
}

/**
 * The nodes that ONNX Runtime leaves of a graph on every device: what depends on nothing that is fed is computed once when
 * the session starts, equal nodes are merged, and what nobody reads is dropped.
 */
function stepNodes({ nodes, inputs, outputs }: GraphBuilder): GraphNode[] {
  const fed = new Set(inputs.map(({ name }) => name));
  const stands = new Map<string, string>();
  const known = new Map<string, GraphNode>();
  const left: GraphNode[] = [];
  for (const node of nodes) {
    const sources = node.inputs.map((name) => stands.get(name) ?? name);
    if (!sources.some((name) => fed.has(name))) continue;
    for (const name of node.outputs) fed.add(name);
    const attributes = Object.entries(node.attributes).map(([name, value]) => `${name}=${String(value)}`);
    const key = [node.opType, ...sources, ...attributes].join("|");
    const twin = known.get(key);
    if (twin === undefined || node.opType === "Identity") {
      known.set(key, node);
      left.push(node);
    } else node.outputs.forEach((name, index) => stands.set(name, twin.outputs[index] as string));
  }
  const read = new Set(outputs.map(({ name }) => name));
  return left.toReversed().filter((node) => {
    if (!node.outputs.some((name) => read.has(name))) return false;
    for (const name of node.inputs) read.add(stands.get(name) ?? name);
    return true;
  });
}

const BYTES: Readonly<Record<string, number>> = { float32: 4, float16: 2, int64: 8, bool: 1 };

function bytesOf(value: Value | undefined): number {
  if (value === undefined) return 0;
  return value.shape.reduce<number>((product, size) => product * Number(size), BYTES[value.dtype] ?? 0);
}

function traffic({ inputValues, outputValues }: GraphNode): number {
  return [...inputValues, ...outputValues].reduce((sum, value) => sum + bytesOf(value), 0);
}

/** The step's nodes by operator, most traffic first, as text. */
export async function countStep(options: WorkloadOptions): Promise<string> {
  const library = await importTraining();
  const { config, weights } = await library.openBaseModel(options.model);
  const spec = trainingSpec(options);
  const graph = library.buildTrainingGraph(config, weights(), library.layoutParameters(config, spec), spec);
  const counts = new Map<string, OperatorCount>();
  const count = (opType: string, change: Partial<OperatorCount>): void => {
    const { built, remaining, megabytes } = counts.get(opType) ?? { built: 0, remaining: 0, megabytes: 0 };
    counts.set(opType, {
      built: built + (change.built ?? 0),
      remaining: remaining + (change.remaining ?? 0),
      megabytes: megabytes + (change.megabytes ?? 0),
    });
  };
  for (const { opType } of graph.nodes) count(opType, { built: 1 });
  for (const node of stepNodes(graph)) {
    count(node.opType, { remaining: 1, megabytes: FREE.has(node.opType) ? 0 : traffic(node) / 1e6 });
  }
  const sorted = [...counts].sort(([, a], [, b]) => b.megabytes - a.megabytes);
  const total = (field: keyof OperatorCount): number =>
    sorted.reduce((sum, [opType, row]) => sum + (FREE.has(opType) ? 0 : row[field]), 0);
  const line = (cells: readonly (string | number)[]): string =>
    cells.map((cell) => (typeof cell === "number" ? cell.toFixed(0) : cell).padStart(11)).join("");
  return [
    `${line(["built", "remaining", "MB"])}  operator (${options.precision}, ${options.rows} rows of ${options.rowLength})`,
    ...sorted.map(([opType, row]) => `${line([row.built, row.remaining, row.megabytes])}  ${opType}`),
    `${line([total("built"), total("remaining"), total("megabytes")])}  kernels: all but ${[...FREE].join(", ")}`,
  ].join("\n");
}
