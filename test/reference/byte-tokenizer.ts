/** @file A minimal byte-level BPE tokenizer without merges, for test checkpoints: one token per UTF-8 byte. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** Special tokens; a token's index is its id. */
export const SPECIAL_TOKENS: readonly string[] = [
  "<|pad|>",
  "<|bos|>",
  "<|end|>",
  "<|user|>",
  "<|assistant|>",
  "<|system|>",
];

/** Id of byte b is `FIRST_BYTE_ID + b`. */
export const FIRST_BYTE_ID: number = SPECIAL_TOKENS.length;

/** `<|bos|>`, then `<|role|>content<|end|>` per message, then `<|assistant|>` when a reply is asked for. */
export const CHAT_TEMPLATE: string =
  "{{ bos_token }}{% for message in messages %}" +
  "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** GPT-2's printable stand-in for each byte: printable Latin-1 stays itself, the others move to U+0100 and up. */
function byteCharacters(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let moved = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : 256 + moved++));
}

/**
 * Writes `tokenizer.json` and `tokenizer_config.json`. Ids above the 256 bytes get the texts "[262]", "[263]", …, which
 * encoding never produces, so that whatever id a random model generates can be decoded.
 * @param vocabSize at least 300
 */
export function writeByteTokenizer(directory: string, vocabSize: number): void {
  if (vocabSize < 300) throw new Error(`vocabSize must be at least 300 and is ${vocabSize}`);
  const texts = [...SPECIAL_TOKENS, ...byteCharacters()];
  for (let id = texts.length; id < vocabSize; id++) texts.push(`[${id}]`);
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({ id, content, ...flags })),
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
      ignore_merges: false,
      vocab: Object.fromEntries(texts.map((text, id) => [text, id])),
      merges: [],
    },
  };
  const config = {
    tokenizer_class: "PreTrainedTokenizerFast",
    pad_token: "<|pad|>",
    bos_token: "<|bos|>",
    eos_token: "<|end|>",
    unk_token: null,
    add_bos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: 2048,
    added_tokens_decoder: Object.fromEntries(SPECIAL_TOKENS.map((content, id) => [String(id), { content, ...flags }])),
    chat_template: CHAT_TEMPLATE,
  };
  writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(tokenizer));
  writeFileSync(join(directory, "tokenizer_config.json"), JSON.stringify(config, null, 2));
}
