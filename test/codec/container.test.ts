/** @file The snapshot format: what goes in comes out, and its layout stays what it is. */

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { decodeContainer, encodeContainer } from "#precis/codec/container.js";

test("any header and sections come back as they were", () => {
  const header = fc.dictionary(
    fc.string().filter((key) => key !== "sections" && key !== "__proto__"),
    fc.jsonValue(),
  );
  const sections = fc.uniqueArray(fc.tuple(fc.string(), fc.uint8Array({ maxLength: 50 })), {
    selector: ([name]) => name,
    maxLength: 5,
  });
  fc.assert(
    fc.property(header, sections, fc.nat(7), (fields, entries, offset) => {
      const encoded = encodeContainer({ header: fields, sections: new Map(entries) });
      // A snapshot may lie anywhere in a larger buffer.
      const shifted = new Uint8Array(encoded.length + offset);
      shifted.set(encoded, offset);
      const decoded = decodeContainer(shifted.subarray(offset));
      const { sections: table, ...rest } = decoded.header;
      expect(JSON.stringify(rest)).toBe(JSON.stringify(fields));
      expect(table).toHaveLength(entries.length);
      expect([...decoded.sections].map(([name, bytes]) => [name, [...bytes]])).toEqual(
        entries.map(([name, bytes]) => [name, [...bytes]]),
      );
    }),
  );
});

test("the first version's bytes stay readable", () => {
  const encoded = encodeContainer({ header: { a: 1 }, sections: new Map([["s", Uint8Array.of(7, 8)]]) });
  expect(Buffer.from(encoded.subarray(0, 8)).toString("latin1")).toBe("PRECISM\u0001");
  const length = Buffer.from(encoded).readUInt32LE(8);
  const header = JSON.parse(Buffer.from(encoded.subarray(44, 44 + length)).toString()) as Record<string, unknown>;
  expect(header).toMatchObject({ a: 1, sections: [{ name: "s", length: 2 }] });
  expect([...encoded.subarray(44 + length)]).toEqual([7, 8]);
});
