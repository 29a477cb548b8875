/** @file The part of ONNX's protocol-buffer format that we write: one model, one graph, external weights. */
import type { DType } from "../tensor/dtype.js";

/** Where the bytes of an external initialiser lie: a file inside the graph's weights folder. */
export interface ExternalData {
  location: string;
  offset: number;
  length: number;
}

/** An initialiser: bytes inside the model, or a place in a file. */
export interface InitializerProto {
  name: string;
  dtype: DType;
  shape: readonly number[];
  data: Uint8Array | ExternalData;
}

/** Attribute values; integers are `bigint` or `{ ints }`, so that a float attribute with a whole value stays a float. */
export type AttributeValue = number | bigint | string | readonly bigint[] | readonly number[];

/** One node. Empty input or output names mark omitted optional ones. */
export interface NodeProto {
  name: string;
  opType: string;
  domain: string;
  inputs: readonly string[];
  outputs: readonly string[];
  attributes: Readonly<Record<string, AttributeValue>>;
}

/** A graph input or output; string dimensions are symbolic. */
export interface ValueInfoProto {
  name: string;
  dtype: DType;
  shape: readonly (number | string)[];
}

/** What {@link encodeModel} writes. */
export interface ModelProto {
  graphName: string;
  opsets: Readonly<Record<string, number>>;
  nodes: readonly NodeProto[];
  initializers: readonly InitializerProto[];
  inputs: readonly ValueInfoProto[];
  outputs: readonly ValueInfoProto[];
}

/** TensorProto.DataType numbers. */
const DATA_TYPE: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  bfloat16: 16,
};

const utf8 = new TextEncoder();

/** Appends fields in protocol-buffer wire format. */
class WireWriter {
  readonly #chunks: Uint8Array[] = [];
  #length = 0;

  #push(bytes: Uint8Array): void {
    this.#chunks.push(bytes);
    this.#length += bytes.byteLength;
  }

  #varint(value: bigint): void {
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, value);
    while (rest > 127n) {
      bytes.push(Number(rest & 127n) | 128);
      rest >>= 7n;
    }
    bytes.push(Number(rest));
    this.#push(Uint8Array.from(bytes));
  }

  integer(field: number, value: number | bigint): this {
    this.#varint(BigInt(field << 3));
    this.#varint(BigInt(value));
    return this;
  }

  float(field: number, value: number): this {
    this.#varint(BigInt((field << 3) | 5));
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    this.#push(bytes);
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    this.#varint(BigInt((field << 3) | 2));
    this.#varint(BigInt(value.byteLength));
    this.#push(value);
    return this;
  }

  string(field: number, value: string): this {
    return this.bytes(field, utf8.encode(value));
  }

  message(field: number, write: (writer: WireWriter) => void): this {
    const inner = new WireWriter();
    write(inner);
    return this.bytes(field, inner.finish());
  }

  finish(): Uint8Array {
    const result = new Uint8Array(this.#length);
    let offset = 0;
    for (const chunk of this.#chunks) {
      result.set(chunk, offset);
      offset += chunk.byteLength;
    }
    return result;
  }
}

function writeAttribute(writer: WireWriter, name: string, value: AttributeValue): void {
  writer.string(1, name);
  if (typeof value === "bigint") writer.integer(3, value).integer(20, 2);
  else if (typeof value === "number") writer.float(2, value).integer(20, 1);
  else if (typeof value === "string") writer.string(4, value).integer(20, 3);
  else if (value.every((item) => typeof item === "bigint")) {
    for (const item of value) writer.integer(8, item);
    writer.integer(20, 7);
  } else {
    for (const item of value) writer.float(7, Number(item));
    writer.integer(20, 6);
  }
}

function writeNode(writer: WireWriter, node: NodeProto): void {
  for (const input of node.inputs) writer.string(1, input);
  for (const output of node.outputs) writer.string(2, output);
  writer.string(3, node.name).string(4, node.opType);
  for (const [name, value] of Object.entries(node.attributes)) {
    writer.message(5, (inner) => writeAttribute(inner, name, value));
  }
  if (node.domain !== "") writer.string(7, node.domain);
}

function writeInitializer(writer: WireWriter, tensor: InitializerProto): void {
  for (const size of tensor.shape) writer.integer(1, size);
  writer.integer(2, DATA_TYPE[tensor.dtype]).string(8, tensor.name);
  if (tensor.data instanceof Uint8Array) {
    writer.bytes(9, tensor.data);
    return;
  }
  for (const [key, value] of Object.entries(tensor.data)) {
    writer.message(13, (entry) => entry.string(1, key).string(2, String(value)));
  }
  writer.integer(14, 1);
}

function writeValueInfo(writer: WireWriter, info: ValueInfoProto): void {
  writer.string(1, info.name).message(2, (type) =>
    type.message(1, (tensor) =>
      tensor.integer(1, DATA_TYPE[info.dtype]).message(2, (shape) => {
        for (const dim of info.shape) {
          shape.message(1, (entry) => (typeof dim === "number" ? entry.integer(1, dim) : entry.string(2, dim)));
        }
      }),
    ),
  );
}

/** A model as the bytes of an `.onnx` file. */
export function encodeModel(model: ModelProto): Uint8Array {
  const writer = new WireWriter();
  writer.integer(1, 10).string(2, "precis");
  writer.message(7, (graph) => {
    for (const node of model.nodes) graph.message(1, (inner) => writeNode(inner, node));
    graph.string(2, model.graphName);
    for (const tensor of model.initializers) graph.message(5, (inner) => writeInitializer(inner, tensor));
    for (const input of model.inputs) graph.message(11, (inner) => writeValueInfo(inner, input));
    for (const output of model.outputs) graph.message(12, (inner) => writeValueInfo(inner, output));
  });
  for (const [domain, version] of Object.entries(model.opsets)) {
    writer.message(8, (opset) => opset.string(1, domain).integer(2, version));
  }
  return writer.finish();
}
