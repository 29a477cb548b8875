/** @file Builds an ONNX graph node by node, checking shapes as it goes. Knows nothing of models. */
import { PrecisError } from "../errors.js";
import { BYTES_PER_ELEMENT, elementCount, fromFloat32, isFloat, type DType } from "../tensor/dtype.js";
import {
  encodeModel,
  type AttributeValue,
  type ExternalData,
  type InitializerProto,
  type NodeProto,
  type ValueInfoProto,
} from "./proto.js";
import type { VjpRule } from "./vjp.js";

/** A dimension: a size known at build time, or the name of one known at run time. */
export type Dim = number | string;

/** A tensor flowing through the graph. */
export interface Value {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** One node to add: what it computes and what it promises about its outputs. */
export interface NodeSpec {
  opType: string;
  /** Operator-set domain; `""` is ONNX's own. */
  domain?: "" | "com.microsoft";
  /** `undefined` marks an omitted optional input. */
  inputs: readonly (Value | undefined)[];
  attributes?: Readonly<Record<string, AttributeValue>>;
  /** Type and shape of each output; `undefined` marks an omitted optional output. */
  outputs: readonly (Pick<Value, "dtype" | "shape"> | undefined)[];
  /** Replaces the op type's gradient rule for this node. */
  vjp?: VjpRule;
}

/** A node as kept by the builder, for printing and differentiation. */
export interface GraphNode extends NodeProto {
  readonly domain: NonNullable<NodeSpec["domain"]>;
  readonly inputValues: readonly (Value | undefined)[];
  readonly outputValues: readonly (Value | undefined)[];
  readonly vjp: VjpRule | undefined;
}

/** The text form of a shape, as error messages show it. */
export function formatShape(shape: readonly Dim[]): string {
  return `[${shape.join(", ")}]`;
}

/** Operator sets every graph of ours imports. Opset 23 is the first with `Attention` and `RotaryEmbedding`. */
const OPSETS = { "": 23, "com.microsoft": 1 } as const;

/**
 * Collects inputs, initialisers, nodes and outputs, then encodes them.
 *
 * @example
 * const graph = new GraphBuilder("double");
 * const x = graph.input("x", "float32", ["rows", 4]);
 * graph.output(add(graph, x, x), "y");
 * const bytes = graph.encode();
 */
export class GraphBuilder {
  readonly name: string;
  /** Ops with a fused kernel are emitted as that kernel, or as primitive ops that can be differentiated. */
  readonly form: "fused" | "primitive";
  readonly nodes: GraphNode[] = [];
  readonly inputs: ValueInfoProto[] = [];
  readonly outputs: ValueInfoProto[] = [];
  readonly initializers: InitializerProto[] = [];
  readonly #names = new Set<string>();
  readonly #constants = new Map<string, Value>();
  readonly #makers = new Map<string, GraphNode>();
  #scope: string[] = [];

  constructor(name: string, form: "fused" | "primitive" = "fused") {
    this.name = name;
    this.form = form;
  }

  /** Runs `body` with `name` prefixed to the name of every node and weight it adds. */
  scope<Result>(name: string, body: () => Result): Result {
    this.#scope.push(name);
    try {
      return body();
    } finally {
      this.#scope.pop();
    }
  }

  /** The current scope and `name`, joined by dots. */
  path(name: string): string {
    return [...this.#scope, name].join(".");
  }

  /** Declares an input fed at every run. */
  input(name: string, dtype: DType, shape: readonly Dim[]): Value {
    this.#claim(name);
    this.inputs.push({ name, dtype, shape });
    return { name, dtype, shape };
  }

  /** Declares `value` as an output under `name`. */
  output(value: Value, name: string): void {
    const renamed = this.node({ opType: "Identity", inputs: [value], outputs: [value] }, name);
    this.outputs.push({ name: (renamed[0] as Value).name, dtype: value.dtype, shape: value.shape });
  }

  /** A weight: bytes kept in the graph, or a place in a file of the weights folder. */
  weight(name: string, dtype: DType, shape: readonly number[], data: Uint8Array | ExternalData): Value {
    const bytes = data instanceof Uint8Array ? data.byteLength : data.length;
    const expected = elementCount(shape) * BYTES_PER_ELEMENT[dtype];
    if (bytes !== expected) {
      throw this.#error(name, `has ${bytes} bytes but shape ${formatShape(shape)} of ${dtype} needs ${expected}`);
    }
    this.#claim(name);
    this.initializers.push({ name, dtype, shape, data });
    return { name, dtype, shape };
  }

  /** A constant of floats, float32 unless told otherwise; equal constants are stored once. */
  floats(values: readonly number[], shape: readonly number[] = [values.length], dtype: DType = "float32"): Value {
    if (!isFloat(dtype)) throw this.#error("a constant of floats", `cannot be ${dtype}`);
    return this.#constant(dtype, shape, fromFloat32(Float32Array.from(values), dtype));
  }

  /** An int64 constant; equal constants are stored once. */
  integers(values: readonly number[], shape: readonly number[] = [values.length]): Value {
    return this.#constant("int64", shape, new Uint8Array(BigInt64Array.from(values, BigInt).buffer));
  }

  /** Adds one node and returns its outputs. Op functions in `ops/` call this after checking shapes. */
  node(spec: NodeSpec, outputName?: string): Value[] {
    const name = outputName ?? this.#unique(this.path(spec.opType));
    if (outputName !== undefined) this.#claim(outputName);
    const outputValues = spec.outputs.map((output, index) =>
      output === undefined
        ? undefined
        : { name: index === 0 ? name : `${name}:${index}`, dtype: output.dtype, shape: output.shape },
    );
    const node: GraphNode = {
      name,
      opType: spec.opType,
      domain: spec.domain ?? "",
      inputs: spec.inputs.map((value) => value?.name ?? ""),
      outputs: outputValues.map((value) => value?.name ?? ""),
      attributes: spec.attributes ?? {},
      inputValues: spec.inputs,
      outputValues,
      vjp: spec.vjp,
    };
    this.nodes.push(node);
    for (const output of node.outputs) this.#makers.set(output, node);
    return outputValues.filter((value) => value !== undefined);
  }

  /** The node that computes `value`; undefined for inputs and weights. */
  makerOf(value: Value): GraphNode | undefined {
    return this.#makers.get(value.name);
  }

  /** A GRAPH_INVALID error that names the node about to be added and the shapes it was given. */
  shapeError(opType: string, problem: string, values: readonly Value[]): PrecisError {
    const given = values.map((value) => `${value.name} ${formatShape(value.shape)}`).join(", ");
    return this.#error(this.path(opType), `${problem} (given ${given})`);
  }

  /** The model as `.onnx` bytes. */
  encode(): Uint8Array {
    return encodeModel({
      graphName: this.name,
      opsets: OPSETS,
      nodes: this.nodes,
      initializers: this.initializers,
      inputs: this.inputs,
      outputs: this.outputs,
    });
  }

  #constant(dtype: DType, shape: readonly number[], bytes: Uint8Array): Value {
    const key = `${dtype}${formatShape(shape)}${Buffer.from(bytes).toString("base64")}`;
    const known = this.#constants.get(key);
    if (known !== undefined) return known;
    const value = this.weight(`constant.${this.#constants.size}`, dtype, shape, bytes);
    this.#constants.set(key, value);
    return value;
  }

  #claim(name: string): void {
    if (this.#names.has(name)) throw this.#error(name, "is already the name of another value");
    this.#names.add(name);
  }

  #unique(base: string): string {
    let name = base;
    for (let suffix = 1; this.#names.has(name); suffix++) name = `${base}_${suffix}`;
    this.#names.add(name);
    return name;
  }

  #error(where: string, problem: string): PrecisError {
    return new PrecisError("GRAPH_INVALID", `Graph "${this.name}": ${where} ${problem}.`);
  }
}
