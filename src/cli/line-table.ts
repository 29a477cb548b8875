/** @file A table that is printed row by row as rows become known, so its column widths are fixed beforehand. */

/** A column; numbers and the like stand at the right. */
export interface FixedColumn {
  heading: string;
  width: number;
  align?: "left" | "right";
}

/** Formats the heading and the rows of a table with fixed columns. */
export class LineTable {
  readonly #columns: readonly FixedColumn[];

  constructor(columns: readonly FixedColumn[]) {
    this.#columns = columns;
  }

  /** The heading line, in capitals as in every table of the command line. */
  heading(): string {
    return this.row(this.#columns.map(({ heading }) => heading.toUpperCase()));
  }

  /** One row, with a cell per column. */
  row(cells: readonly string[]): string {
    return this.#columns
      .map(({ width, align = "right" }, index) => {
        const cell = cells[index] ?? "";
        return align === "right" ? cell.padStart(width) : cell.padEnd(width);
      })
      .join("  ")
      .trimEnd();
  }
}
