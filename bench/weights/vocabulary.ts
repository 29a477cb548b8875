/** @file A byte-level vocabulary without merges: three specials, 256 bytes, the rest filler that no text encodes to. */

/** Tokens that no text produces by itself. */
export const SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] as const;

/** Ids that the tokenizer configuration names. */
export const END_OF_TEXT = 0;

/** GPT-2's printable stand-in for each byte. */
function byteSymbols(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

/** The text of every token, in id order. */
export function listTokens(size: number): string[] {
  const tokens = [...SPECIAL_TOKENS, ...byteSymbols()];
  for (let id = tokens.length; id < size; id++) tokens.push(`Ġw${id.toString(36)}`);
  return tokens;
}
