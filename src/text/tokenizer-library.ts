/** @file The part of the tokenizers library that this one uses, typed, and a variant of it without special tokens. */

import { Tokenizer } from "@huggingface/tokenizers";
import type { JsonObject, TokenizerDefinition } from "./tokenizer-files.js";

/**
 * What is used of the library's Tokenizer. Its own declarations import each other without file extensions, so under
 * Node's module resolution nearly all of them are `any`.
 */
export interface LibraryTokenizer {
  readonly model: { readonly vocab: readonly (string | undefined)[]; readonly unk_token_id?: number };
  readonly post_processor: {
    post_process(tokens: string[], pair: null, addSpecial: boolean): { tokens: string[] };
  } | null;
  /** An id is undefined where the vocabulary has neither the token nor an unknown token. */
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  tokenize(text: string, options: { add_special_tokens: boolean }): string[];
  decode(ids: number[], options: { clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

/** Build the library's tokenizer. Throws a plain Error for definitions that it does not know. */
export function createLibraryTokenizer(definition: TokenizerDefinition, config: JsonObject): LibraryTokenizer {
  return new Tokenizer(definition, config) as LibraryTokenizer;
}

/**
 * The same tokenizer, unable to produce `specials` from text: they are not split out, no merge ends in one, and their
 * vocabulary entries have unreachable names (the `ignore_merges` shortcut, which looks whole words up, would find them).
 */
export function withoutSpecialTokens(
  definition: TokenizerDefinition,
  specials: ReadonlySet<string>,
): TokenizerDefinition {
  const { model } = definition;
  const rename = (token: string, id: number): string =>
    specials.has(token) && token !== model.unk_token && id !== model.unk_id ? `\uFDD0${id}\uFDD1` : token;
  const vocab = Array.isArray(model.vocab)
    ? model.vocab.map(([token, score]: [string, number], id) => [rename(token, id), score])
    : Object.fromEntries(Object.entries(model.vocab ?? {}).map(([token, id]) => [rename(token, id as number), id]));
  const merges = (model.merges as (string | [string, string])[] | undefined)?.filter((merge) => {
    const [left, right] = typeof merge === "string" ? merge.split(" ", 2) : merge;
    return !specials.has(`${left}${right}`);
  });
  return {
    ...definition,
    added_tokens: definition.added_tokens.filter(({ content }) => !specials.has(content)),
    model: { ...model, vocab, ...(merges && { merges }) },
  };
}
