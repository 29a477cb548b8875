/** @file Colours for terminals, and none for pipes. */

/** Ways to show a piece of text. */
export interface Style {
  dim: (text: string) => string;
  bold: (text: string) => string;
  accent: (text: string) => string;
  alert: (text: string) => string;
}

/** Whether to colour what goes to `stream`: NO_COLOR and FORCE_COLOR decide before the terminal does. */
function isColoured(stream: NodeJS.WriteStream): boolean {
  const { NO_COLOR, FORCE_COLOR, TERM } = process.env;
  if (NO_COLOR !== undefined && NO_COLOR !== "") return false;
  if (FORCE_COLOR !== undefined && FORCE_COLOR !== "") return FORCE_COLOR !== "0";
  return stream.isTTY === true && TERM !== "dumb";
}

/** The style for what is written to `stream`. */
export function styleOf(stream: NodeJS.WriteStream): Style {
  const coloured = isColoured(stream);
  const wrap = (open: number, close: number) => (text: string) =>
    coloured ? `\u001B[${open}m${text}\u001B[${close}m` : text;
  return { dim: wrap(2, 22), bold: wrap(1, 22), accent: wrap(36, 39), alert: wrap(31, 39) };
}
