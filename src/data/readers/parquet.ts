/** @file Parquet files, row group by row group. */
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { PrecisError } from "../../errors.js";
import { isSystemError } from "../../weights/files.js";

/** The rows of a Parquet file as plain JSON values. */
export async function* readParquet(file: string): AsyncGenerator<unknown, void, void> {
  try {
    const buffer = await asyncBufferFromFile(file);
    const metadata = await parquetMetadataAsync(buffer);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const rows = await parquetReadObjects({ file: buffer, metadata, compressors, rowStart, rowEnd });
      for (const row of rows) yield plainValue(row);
      rowStart = rowEnd;
    }
  } catch (error) {
    if (isSystemError(error, "ENOENT")) {
      throw new PrecisError("FILE_NOT_FOUND", `There is no file ${file}.`, { value: file, cause: error });
    }
    throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`, "Download it again.");
  }
}

/** Whole numbers come as BigInt, which JSON and our records do not know. */
function plainValue(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainValue(inner)]));
}
