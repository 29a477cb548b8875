/** @file Writes safetensors files, one tensor after another, so that only one is in memory at a time. */
import { closeSync, openSync, writeSync } from "node:fs";

/** A tensor to write; its bytes are asked for only when they are about to be written. */
export interface StoredTensor {
  name: string;
  dtype: "F16" | "F32";
  shape: readonly number[];
  bytes: () => NodeJS.ArrayBufferView;
}

const BYTES = { F16: 2, F32: 4 } as const;

/** Writes `tensors` to `path` in the given order. */
export function writeSafetensors(path: string, tensors: readonly StoredTensor[]): void {
  let end = 0;
  const entries = tensors.map(({ name, dtype, shape }) => {
    const start = end;
    end += BYTES[dtype] * shape.reduce((product, size) => product * size, 1);
    return [name, { dtype, shape, data_offsets: [start, end] }];
  });
  const json = JSON.stringify({ __metadata__: { format: "pt" }, ...Object.fromEntries(entries) });
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.byteLength));
  const file = openSync(path, "w");
  try {
    writeSync(file, length);
    writeSync(file, header);
    for (const { bytes } of tensors) writeSync(file, bytes());
  } finally {
    closeSync(file);
  }
}
