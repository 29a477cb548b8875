/** @file Reading JSON Lines, Parquet and dataset folders. */
import { join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, test } from "vitest";
import { listDataFiles, readRecords } from "#precis/data/dataset.js";
import { temporaryFolder, writeFiles } from "../weights/folders.js";
import { jsonLines } from "./tiny-data.js";

async function all(file: string): Promise<unknown[]> {
  const records: unknown[] = [];
  for await (const record of readRecords(file)) records.push(record);
  return records;
}

describe("JSON Lines", () => {
  // Longer than a chunk of the stream, with characters of several bytes that chunks will cut.
  const records = Array.from({ length: 3000 }, (_, id) => ({ id, text: "é漢😀".repeat(1 + (id % 40)) }));

  test.each(["plain.jsonl", "packed.jsonl.gz"])("%s", async (name) => {
    await using folder = await temporaryFolder();
    const text = jsonLines(records);
    await writeFiles(folder.path, { [name]: name.endsWith(".gz") ? gzipSync(text) : text });
    expect(await all(join(folder.path, name))).toEqual(records);
  });

  test("empty lines, carriage returns and a missing last line break", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, { "a.jsonl": '{"a":1}\r\n\n  \n{"a":2}' });
    expect(await all(join(folder.path, "a.jsonl"))).toEqual([{ a: 1 }, { a: 2 }]);
  });

  test("errors name the file and the line", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, {
      "bad.jsonl": '{"a":1}\n{"a":',
      "cut.jsonl.gz": gzipSync(jsonLines(records)).subarray(0, 400),
    });
    const bad = join(folder.path, "bad.jsonl");
    await expect(all(bad)).rejects.toMatchObject({ code: "FILE_INVALID", message: expect.stringContaining("Line 2") });
    await expect(all(join(folder.path, "cut.jsonl.gz"))).rejects.toMatchObject({ code: "FILE_INVALID" });
    await expect(all(join(folder.path, "none.jsonl"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });

  test("a reader may stop early", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, { "a.jsonl": jsonLines(records) });
    for await (const record of readRecords(join(folder.path, "a.jsonl"))) {
      expect(record).toEqual(records[0]);
      break;
    }
  });
});

describe("Parquet", () => {
  const data = {
    name: ["ada", "bob", "eve"],
    age: [36, 40, 7],
    count: [1n, 2n, 3n],
    options: [["a", "b"], [], ["c"]],
  };
  const rows = [
    { name: "ada", age: 36, count: 1, options: ["a", "b"] },
    { name: "bob", age: 40, count: 2, options: [] },
    { name: "eve", age: 7, count: 3, options: ["c"] },
  ];
  const columnData = [
    { name: "name", data: data.name, type: "STRING" as const },
    { name: "age", data: data.age, type: "INT32" as const },
    { name: "count", data: data.count, type: "INT64" as const },
    { name: "options", data: data.options, type: "JSON" as const },
  ];

  test.each(["UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI"] as const)("%s, in several row groups", async (codec) => {
    await using folder = await temporaryFolder();
    const compressors = {
      GZIP: (bytes: Uint8Array) => new Uint8Array(gzipSync(bytes)),
      BROTLI: (bytes: Uint8Array) => new Uint8Array(brotliCompressSync(bytes)),
    };
    const buffer = parquetWriteBuffer({ columnData, codec, compressors, rowGroupSize: 2 });
    await writeFiles(folder.path, { "rows.parquet": new Uint8Array(buffer) });
    expect(await all(join(folder.path, "rows.parquet"))).toEqual(rows);
  });

  test("what is no Parquet is refused", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, { "bad.parquet": "hello, I am not a table" });
    await expect(all(join(folder.path, "bad.parquet"))).rejects.toMatchObject({ code: "FILE_INVALID" });
    await expect(all(join(folder.path, "none.parquet"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });
});

describe("dataset folders", () => {
  test("splits come from the names of files and folders", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, {
      "README.md": "---\nlicense: mit\n---",
      "dataset_infos.json": {},
      "data/train-00000-of-00002.parquet": "",
      "data/train-00001-of-00002.parquet": "",
      "data/validation-00000-of-00001.parquet": "",
      "test/part.jsonl.gz": "",
      "my_dev_set.jsonl": "",
      "contest.jsonl": "",
    });
    const found = await listDataFiles(folder.path);
    expect(found.map(({ file, split }) => [file.slice(folder.path.length + 1), split])).toEqual([
      ["contest.jsonl", undefined],
      ["data/train-00000-of-00002.parquet", "train"],
      ["data/train-00001-of-00002.parquet", "train"],
      ["data/validation-00000-of-00001.parquet", "dev"],
      ["my_dev_set.jsonl", "dev"],
      ["test/part.jsonl.gz", "test"],
    ]);
  });

  test("nothing there", async () => {
    await using folder = await temporaryFolder();
    await expect(listDataFiles(join(folder.path, "none"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(listDataFiles(folder.path)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });
});
