/** @file Writes the benchmark model as a GGUF file of llama.cpp's "llama" architecture. */
import { quantizeQ4, quantizeQ8 } from "./quantize.js";
import { randomFloats, randomHalfs } from "./random.js";
import { listTensors, type DecoderShape, type TensorSpec } from "./shape.js";
import { END_OF_TEXT, listTokens, SPECIAL_TOKENS } from "./vocabulary.js";
import { writeGguf, type GgufTensor, type GgufTensorType, type GgufValue } from "./gguf.js";

/** Weight formats offered for the matrices; norms stay float32. */
export type GgufQuantization = Exclude<GgufTensorType, "f32">;

const FILE_TYPE: Readonly<Record<GgufQuantization, number>> = { f16: 1, q4_0: 2, q8_0: 7 };

/** llama.cpp's token types: normal text, and control tokens that never print. */
const TOKEN_NORMAL = 1;
const TOKEN_CONTROL = 3;

function metadata(shape: DecoderShape, quantization: GgufQuantization): Record<string, GgufValue> {
  const text = (value: string): GgufValue => ({ type: "string", value });
  const count = (value: number): GgufValue => ({ type: "uint32", value });
  const real = (value: number): GgufValue => ({ type: "float32", value });
  const tokens = listTokens(shape.vocabulary);
  const types = tokens.map((_, id) => (id < SPECIAL_TOKENS.length ? TOKEN_CONTROL : TOKEN_NORMAL));
  return {
    "general.architecture": text("llama"),
    "general.name": text("precis-bench"),
    "general.file_type": count(FILE_TYPE[quantization]),
    "general.quantization_version": count(2),
    "llama.block_count": count(shape.layers),
    "llama.context_length": count(shape.maxPositions),
    "llama.embedding_length": count(shape.hidden),
    "llama.feed_forward_length": count(shape.ffn),
    "llama.attention.head_count": count(shape.queryHeads),
    "llama.attention.head_count_kv": count(shape.kvHeads),
    "llama.attention.layer_norm_rms_epsilon": real(shape.normEpsilon),
    "llama.rope.dimension_count": count(shape.headDim),
    "llama.rope.freq_base": real(shape.ropeTheta),
    "llama.vocab_size": count(shape.vocabulary),
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.pre": text("gpt-2"),
    "tokenizer.ggml.tokens": { type: "array", of: "string", value: tokens },
    "tokenizer.ggml.token_type": { type: "array", of: "int32", value: types },
    "tokenizer.ggml.merges": { type: "array", of: "string", value: [] },
    "tokenizer.ggml.bos_token_id": count(END_OF_TEXT),
    "tokenizer.ggml.eos_token_id": count(END_OF_TEXT),
    "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
  };
}

/**
 * Query and key rows in llama.cpp's order. It rotates neighbours (x_2i, x_2i+1), Hugging Face the halves (x_i, x_i+d/2);
 * interleaving the rows of the two halves makes both compute the same.
 */
export function interleaveRotaryRows<Values extends Float32Array | Uint16Array>(
  values: Values,
  rows: number,
  heads: number,
): Values {
  const columns = values.length / rows;
  const headDim = rows / heads;
  const result = values.slice() as Values;
  for (let row = 0; row < rows; row++) {
    const within = row % headDim;
    const source = row - within + Math.floor(within / 2) + (within % 2) * (headDim / 2);
    result.set(values.subarray(source * columns, (source + 1) * columns), row * columns);
  }
  return result;
}

function ggufTensor(spec: TensorSpec, quantization: GgufQuantization): GgufTensor {
  const { ggufName: name, shape, rotaryHeads } = spec;
  const type = shape.length === 1 ? "f32" : quantization;
  const ordered = <Values extends Float32Array | Uint16Array>(values: Values): Values =>
    rotaryHeads === 0 ? values : interleaveRotaryRows(values, shape[0] as number, rotaryHeads);
  const encode: Readonly<Record<GgufTensorType, () => Uint8Array>> = {
    f32: () => new Uint8Array(randomFloats(spec).buffer),
    f16: () => new Uint8Array(ordered(randomHalfs(spec)).buffer),
    q4_0: () => quantizeQ4(ordered(randomFloats(spec))),
    q8_0: () => quantizeQ8(ordered(randomFloats(spec))),
  };
  return { name, shape, type, bytes: encode[type] };
}

/** Writes the model to `path`, its matrices in the given block format. */
export function writeLlamaGguf(path: string, shape: DecoderShape, quantization: GgufQuantization): void {
  const tensors = listTensors(shape).map((spec) => ggufTensor(spec, quantization));
  writeGguf(path, metadata(shape, quantization), tensors);
}
