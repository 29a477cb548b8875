/** @file Writes a safetensors file piece by piece, for tensors that do not fit in memory together. */
import { mkdir, open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { PrecisError } from "../errors.js";
import { temporaryName } from "./files.js";
import { layOut, type TensorEntry, type TensorSpec } from "./safetensors-header.js";

/**
 * Declares all tensors first, then takes their data, then puts the file in place in one step. Until
 * {@link SafetensorsWriter.finish} only a temporary file exists; leaving the scope of `await using` early removes it.
 *
 * @example
 * await using writer = await SafetensorsWriter.create("out.safetensors", [{ name: "w", dtype: "float32", shape: [2, 2] }]);
 * await writer.write("w", new Float32Array([1, 2]));
 * await writer.write("w", new Float32Array([3, 4]));
 * await writer.finish();
 */
export class SafetensorsWriter implements AsyncDisposable {
  readonly #file: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  readonly #entries: Map<string, TensorEntry>;
  /** Bytes written so far, per tensor. */
  readonly #written: Map<string, number>;
  #state: "writing" | "finished" | "aborted" = "writing";

  private constructor(file: string, temporary: string, handle: FileHandle, entries: readonly TensorEntry[]) {
    this.#file = file;
    this.#temporary = temporary;
    this.#handle = handle;
    this.#entries = new Map(entries.map((entry) => [entry.name, entry]));
    this.#written = new Map(entries.map((entry) => [entry.name, 0]));
  }

  /**
   * Starts a file; its folder is created.
   * @throws INPUT_INVALID for repeated names or impossible shapes; FILE_INVALID if the folder is not writable
   */
  static async create(
    file: string,
    tensors: readonly TensorSpec[],
    metadata: Record<string, string> = {},
  ): Promise<SafetensorsWriter> {
    const path = resolve(file);
    const temporary = temporaryName(path);
    const { head, entries } = layOut(tensors, metadata, path);
    try {
      await mkdir(dirname(path), { recursive: true });
      const handle = await open(temporary, "wx");
      const writer = new SafetensorsWriter(path, temporary, handle, entries);
      await writer.#put(head, 0);
      return writer;
    } catch (error) {
      throw writeError(error, path);
    }
  }

  /** The place of a declared tensor in the finished file. Throws INPUT_INVALID for another name. */
  entry(name: string): TensorEntry {
    const entry = this.#entries.get(name);
    if (entry !== undefined) return entry;
    throw new PrecisError("INPUT_INVALID", `Tensor "${name}" was not declared for ${this.#file}.`, { value: name });
  }

  /**
   * Appends to the data of tensor `name`. Tensors may be filled in any order and in any number of pieces.
   * @throws INPUT_INVALID if the tensor was not declared or gets more bytes than it has
   */
  async write(name: string, data: Uint8Array | ArrayBufferView): Promise<void> {
    this.#expectWriting();
    const entry = this.entry(name);
    const done = this.#written.get(name) as number;
    if (done + data.byteLength > entry.length) {
      const message = `Tensor "${name}" has ${entry.length} bytes but was given ${done + data.byteLength}.`;
      throw new PrecisError("INPUT_INVALID", message, { value: name });
    }
    // Counted before waiting, so that two writes in flight do not land on the same place.
    this.#written.set(name, done + data.byteLength);
    await this.#put(new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength), entry.offset + done);
  }

  /**
   * Puts the file in place. Throws INPUT_INVALID if a tensor lacks data.
   * @returns the tensors of the finished file
   */
  async finish(): Promise<Map<string, TensorEntry>> {
    this.#expectWriting();
    for (const { name, length } of this.#entries.values()) {
      const done = this.#written.get(name) as number;
      if (done < length) {
        throw new PrecisError("INPUT_INVALID", `Tensor "${name}" has ${length} bytes but was given only ${done}.`);
      }
    }
    try {
      await this.#handle.sync();
      await this.#handle.close();
      await rename(this.#temporary, this.#file);
      this.#state = "finished";
    } catch (error) {
      await this.abort();
      throw writeError(error, this.#file);
    }
    return new Map(this.#entries);
  }

  /** Gives up and removes the temporary file. Does nothing after {@link SafetensorsWriter.finish}. */
  async abort(): Promise<void> {
    if (this.#state !== "writing") return;
    this.#state = "aborted";
    await this.#handle.close();
    await rm(this.#temporary, { force: true });
  }

  /** Same as {@link SafetensorsWriter.abort}: an unfinished file is removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  #expectWriting(): void {
    if (this.#state !== "writing") {
      throw new PrecisError("DISPOSED", `The writer of ${this.#file} is ${this.#state}; create another one.`);
    }
  }

  async #put(bytes: Uint8Array, position: number): Promise<void> {
    try {
      for (let done = 0; done < bytes.byteLength;) {
        const { bytesWritten } = await this.#handle.write(bytes, done, bytes.byteLength - done, position + done);
        done += bytesWritten;
      }
    } catch (error) {
      await this.abort();
      throw writeError(error, this.#file);
    }
  }
}

function writeError(error: unknown, file: string): PrecisError {
  return PrecisError.from(error, "FILE_INVALID", `Cannot write ${file}`, "Check its folder and the free disk space.");
}
