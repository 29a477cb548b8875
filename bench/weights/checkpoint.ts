/** @file Writes the benchmark model as a Hugging Face checkpoint folder. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomHalfs } from "./random.js";
import { writeSafetensors } from "./safetensors.js";
import { listTensors, type DecoderShape } from "./shape.js";
import { END_OF_TEXT, listTokens, SPECIAL_TOKENS } from "./vocabulary.js";

function config(shape: DecoderShape): object {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: shape.hidden,
    intermediate_size: shape.ffn,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.queryHeads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    max_position_embeddings: shape.maxPositions,
    rms_norm_eps: shape.normEpsilon,
    rope_theta: shape.ropeTheta,
    rope_scaling: null,
    vocab_size: shape.vocabulary,
    tie_word_embeddings: true,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: END_OF_TEXT,
    eos_token_id: END_OF_TEXT,
    torch_dtype: "float16",
  };
}

function tokenizer(shape: DecoderShape): object {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(listTokens(shape.vocabulary).map((token, id) => [token, id])),
      merges: [],
    },
  };
}

const tokenizerConfig = {
  tokenizer_class: "GPT2Tokenizer",
  add_prefix_space: false,
  bos_token: SPECIAL_TOKENS[0],
  eos_token: SPECIAL_TOKENS[0],
  unk_token: SPECIAL_TOKENS[0],
  clean_up_tokenization_spaces: false,
  chat_template:
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}" +
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
};

/** Writes config, tokenizer and half-float weights into `folder`. */
export function writeCheckpoint(folder: string, shape: DecoderShape): void {
  mkdirSync(folder, { recursive: true });
  const json = (name: string, value: object): void => writeFileSync(join(folder, name), JSON.stringify(value, null, 1));
  json("config.json", config(shape));
  json("generation_config.json", { bos_token_id: END_OF_TEXT, eos_token_id: END_OF_TEXT });
  json("tokenizer.json", tokenizer(shape));
  json("tokenizer_config.json", tokenizerConfig);
  writeSafetensors(
    join(folder, "model.safetensors"),
    listTensors(shape).map((spec) => ({
      name: spec.name,
      dtype: "F16",
      shape: spec.shape,
      bytes: () => randomHalfs(spec),
    })),
  );
}
