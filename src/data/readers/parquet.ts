/** @file Parquet files, row group by row group. */
import * as zlib from "node:zlib";
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import type { Compressors } from "hyparquet";
import { PrecisError } from "../../errors.js";
import { isSystemError } from "../../weights/files.js";

/** Codecs besides Snappy, which the library brings. Zstandard is there from Node 22.15 on. */
function compressors(): Compressors {
  const zstd = (zlib as { zstdDecompressSync?: (bytes: Uint8Array) => Uint8Array }).zstdDecompressSync;
  return {
    GZIP: (bytes) => new Uint8Array(zlib.gunzipSync(bytes)),
    BROTLI: (bytes) => new Uint8Array(zlib.brotliDecompressSync(bytes)),
    ...(zstd !== undefined && { ZSTD: (bytes: Uint8Array) => new Uint8Array(zstd(bytes)) }),
  };
}

/** The rows of a Parquet file as plain JSON values. */
export async function* readParquet(file: string): AsyncGenerator<unknown, void, void> {
  try {
    const buffer = await asyncBufferFromFile(file);
    const metadata = await parquetMetadataAsync(buffer);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const rows = await parquetReadObjects({ file: buffer, metadata, compressors: compressors(), rowStart, rowEnd });
      for (const row of rows) yield plainValue(row);
      rowStart = rowEnd;
    }
  } catch (error) {
    if (isSystemError(error, "ENOENT")) {
      throw new PrecisError("FILE_NOT_FOUND", `There is no file ${file}.`, { value: file, cause: error });
    }
    const nextStep = "Use Parquet with Snappy, Gzip or Brotli compression (Zstandard needs Node 22.15).";
    throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`, nextStep);
  }
}

/** Whole numbers come as BigInt, which JSON and our records do not know. */
function plainValue(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainValue(inner)]));
}
