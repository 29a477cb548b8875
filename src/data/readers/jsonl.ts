/** @file JSON Lines, plain or gzipped, record by record. */
import { createReadStream } from "node:fs";
import { createGunzip } from "node:zlib";
import { PrecisError } from "../../errors.js";
import { isSystemError } from "../../weights/files.js";

/** Large, since records such as books are longer than the usual chunks. */
const CHUNK_BYTES = 1 << 18;

/** The records of a `.jsonl` or `.jsonl.gz` file; empty lines are passed over. */
export async function* readJsonLines(file: string): AsyncGenerator<unknown, void, void> {
  let line = 0;
  for await (const text of readLines(file)) {
    line++;
    if (text.trim() === "") continue;
    yield parseLine(text, file, line);
  }
}

function parseLine(text: string, file: string, line: number): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw PrecisError.from(error, "FILE_INVALID", `Line ${line} of ${file} is not valid JSON`, "Repair the file.");
  }
}

async function* readLines(file: string): AsyncGenerator<string, void, void> {
  const source = createReadStream(file, { highWaterMark: CHUNK_BYTES });
  const bytes = file.endsWith(".gz") ? source.pipe(createGunzip({ chunkSize: CHUNK_BYTES })) : source;
  // A pipe does not pass errors on.
  source.on("error", (error) => bytes.destroy(error));
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for await (const chunk of bytes) {
      const lines = (rest + decoder.decode(chunk as Uint8Array, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      yield* lines;
    }
  } catch (error) {
    if (isSystemError(error, "ENOENT")) {
      throw new PrecisError("FILE_NOT_FOUND", `There is no file ${file}.`, { value: file, cause: error });
    }
    throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`, "Download it again.");
  } finally {
    source.destroy();
  }
  rest += decoder.decode();
  if (rest !== "") yield rest;
}
