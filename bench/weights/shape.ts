/** @file The shapes of the benchmark models: llamas with grouped heads and tied embeddings. */

/** Sizes of a llama-style decoder. */
export interface DecoderShape {
  /** Of the model that has these sizes; its files are kept under it. */
  name: string;
  layers: number;
  hidden: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  ffn: number;
  vocabulary: number;
  maxPositions: number;
  ropeTheta: number;
  normEpsilon: number;
}

/** SmolLM2-135M, with room for a conversation of 8,000 tokens and more. */
export const SMOLLM2_135M: DecoderShape = {
  name: "smollm2-135m",
  layers: 30,
  hidden: 576,
  queryHeads: 9,
  kvHeads: 3,
  headDim: 64,
  ffn: 1536,
  vocabulary: 49152,
  maxPositions: 16384,
  ropeTheta: 100_000,
  normEpsilon: 1e-5,
};

/** The embedded model, but with room for long conversations, which the embedded one has not. */
export const PRECIS_28M: DecoderShape = {
  name: "precis-28m",
  layers: 8,
  hidden: 512,
  queryHeads: 8,
  kvHeads: 4,
  headDim: 64,
  ffn: 1408,
  vocabulary: 8192,
  maxPositions: 16384,
  ropeTheta: 10_000,
  normEpsilon: 1e-5,
};

/** One tensor of the checkpoint. */
export interface TensorSpec {
  /** Name in a Hugging Face checkpoint. */
  name: string;
  /** Name in a GGUF file. */
  ggufName: string;
  /** Row-major, as Hugging Face stores it: [out, in] for a linear layer. */
  shape: readonly number[];
  /** Heads whose rows GGUF stores interleaved, for the query and key projections; 0 elsewhere. */
  rotaryHeads: number;
}

/** Every tensor of the model, in the order in which both files store them. */
export function listTensors(shape: DecoderShape): TensorSpec[] {
  const { hidden, ffn, headDim, kvHeads, queryHeads } = shape;
  const tensor = (name: string, ggufName: string, dims: readonly number[], rotaryHeads = 0): TensorSpec => ({
    name: `${name}.weight`,
    ggufName: `${ggufName}.weight`,
    shape: dims,
    rotaryHeads,
  });
  const tensors = [tensor("model.embed_tokens", "token_embd", [shape.vocabulary, hidden])];
  for (let layer = 0; layer < shape.layers; layer++) {
    const hf = `model.layers.${layer}`;
    const gguf = `blk.${layer}`;
    tensors.push(
      tensor(`${hf}.input_layernorm`, `${gguf}.attn_norm`, [hidden]),
      tensor(`${hf}.self_attn.q_proj`, `${gguf}.attn_q`, [queryHeads * headDim, hidden], queryHeads),
      tensor(`${hf}.self_attn.k_proj`, `${gguf}.attn_k`, [kvHeads * headDim, hidden], kvHeads),
      tensor(`${hf}.self_attn.v_proj`, `${gguf}.attn_v`, [kvHeads * headDim, hidden]),
      tensor(`${hf}.self_attn.o_proj`, `${gguf}.attn_output`, [hidden, queryHeads * headDim]),
      tensor(`${hf}.post_attention_layernorm`, `${gguf}.ffn_norm`, [hidden]),
      tensor(`${hf}.mlp.gate_proj`, `${gguf}.ffn_gate`, [ffn, hidden]),
      tensor(`${hf}.mlp.up_proj`, `${gguf}.ffn_up`, [ffn, hidden]),
      tensor(`${hf}.mlp.down_proj`, `${gguf}.ffn_down`, [hidden, ffn]),
    );
  }
  tensors.push(tensor("model.norm", "output_norm", [hidden]));
  return tensors;
}
