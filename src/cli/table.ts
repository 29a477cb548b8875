/** @file Plain-text tables for people. */

/** A column of {@link formatTable}: the field of the rows, and its heading unless that is the field's name. */
export interface TableColumn {
  key: string;
  heading?: string;
  /** Default: right if every value is a number, else left. */
  align?: "left" | "right";
}

/**
 * Lines of aligned columns under a heading line, without a line break at the end; `""` for no rows.
 * @param columns which fields to show, in order; a string stands for a column with only that key
 */
export function formatTable(
  rows: readonly Readonly<Record<string, string | number>>[],
  columns: readonly (string | TableColumn)[],
): string {
  if (rows.length === 0) return "";
  const cells = columns.map((given) => {
    const column: TableColumn = typeof given === "string" ? { key: given } : given;
    const values = rows.map((row) => row[column.key] ?? "");
    const align = column.align ?? (values.every((value) => typeof value === "number") ? "right" : "left");
    const texts = [(column.heading ?? column.key).toUpperCase(), ...values.map(String)];
    const width = Math.max(...texts.map((text) => text.length));
    return texts.map((text) => (align === "right" ? text.padStart(width) : text.padEnd(width)));
  });
  const lines = Array.from({ length: rows.length + 1 }, (_, i) => cells.map((column) => column[i]).join("  "));
  return lines.map((line) => line.trimEnd()).join("\n");
}
