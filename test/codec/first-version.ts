/** @file Snapshots as the first version of the format had them. */
import { createHash } from "node:crypto";

const sha256 = (data: Uint8Array): Buffer => createHash("sha256").update(data).digest();

/** A container of version 1, whose header is not padded and whose sections have a SHA-256 each. */
export function firstVersion(header: object, sections: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const table = [...sections].map(([name, bytes]) => ({
    name,
    length: bytes.length,
    sha256: sha256(bytes).toString("hex"),
  }));
  const json = Buffer.from(JSON.stringify({ ...header, sections: table }));
  const size = Buffer.alloc(4);
  size.writeUInt32LE(json.length);
  return Buffer.concat([Buffer.from("PRECISM\u0001"), size, sha256(json), json, ...sections.values()]);
}
