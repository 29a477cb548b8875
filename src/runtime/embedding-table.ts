/** @file Token embeddings, read row by row from the checkpoint so that no second copy of the table is kept. */
import { closeSync, openSync, readSync } from "node:fs";
import { PrecisError } from "../errors.js";
import { BYTES_PER_ELEMENT, toFloat32 } from "../tensor/dtype.js";
import type { TensorEntry } from "../weights/safetensors.js";

/** Rows of [vocab, hidden] on disk, served through the operating system's page cache. */
export class EmbeddingTable implements Disposable {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly #entry: TensorEntry;
  readonly #scale: number;
  readonly #file: number;
  readonly #row: Uint8Array;

  /** @param scale factor on every row, as some families ask for */
  constructor(entry: TensorEntry, scale: number) {
    this.#entry = entry;
    this.#scale = scale;
    this.vocabSize = Number(entry.shape[0]);
    this.hiddenSize = Number(entry.shape[1]);
    this.#row = new Uint8Array(this.hiddenSize * BYTES_PER_ELEMENT[entry.dtype]);
    this.#file = openSync(entry.file, "r");
  }

  /** Writes the embeddings of `ids` into `target`, one row after another from `offset` on; ids from vocab up are taken from `extra`. */
  write(ids: readonly number[], target: Float32Array, offset: number, extra: Float32Array | undefined): void {
    ids.forEach((id, index) => {
      target.set(this.#embedding(id, extra), offset + index * this.hiddenSize);
    });
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }

  #embedding(id: number, extra: Float32Array | undefined): Float32Array {
    if (id < this.vocabSize) {
      readSync(this.#file, this.#row, 0, this.#row.length, this.#entry.offset + id * this.#row.length);
      return this.#scaled(toFloat32(this.#row, this.#entry.dtype));
    }
    const start = (id - this.vocabSize) * this.hiddenSize;
    if (extra === undefined || start + this.hiddenSize > extra.length) {
      throw new PrecisError("INPUT_INVALID", `Token id ${id} is outside the vocabulary of ${this.vocabSize}.`, {
        value: id,
        nextStep: "Tokenise with this model's own tokenizer.",
      });
    }
    return this.#scaled(extra.subarray(start, start + this.hiddenSize));
  }

  #scaled(row: Float32Array): Float32Array {
    return this.#scale === 1 ? row : row.map((value) => value * this.#scale);
  }
}
