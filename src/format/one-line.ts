/** @file Text of strangers in a line of a terminal. */

/** `text` with everything that moves the cursor, colours, ends a line or turns its direction spelled as `\u{…}`. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (sign) => `\\u{${sign.codePointAt(0)?.toString(16)}}`);
}
