/** @file The snapshot format: what goes in comes out, and its layout stays what it is. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { decodeContainer, encodeContainer } from "#precis/codec/container.js";
import { firstVersion } from "./first-version.js";

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

test("its layout stays what it is", () => {
  const encoded = encodeContainer({ header: { a: 1 }, sections: new Map([["s", Uint8Array.of(7, 8)]]) });
  expect(Buffer.from(encoded.subarray(0, 8)).toString("latin1")).toBe("PRECISM\u0002");
  const length = Buffer.from(encoded).readUInt32LE(8);
  const header = JSON.parse(Buffer.from(encoded.subarray(44, 44 + length)).toString()) as Record<string, unknown>;
  expect(header).toEqual({ a: 1, sections: [{ name: "s", length: 2, crc32: "00430c0a" }] });
  expect((44 + length) % 8).toBe(0);
  expect([...encoded.subarray(44 + length)]).toEqual([7, 8]);
});

describe("the first version, which has a SHA-256 of each section,", () => {
  const body = Buffer.of(7, 8);

  test("stays readable", () => {
    const { header, sections } = decodeContainer(firstVersion({ a: 1 }, new Map([["s", body]])));
    expect(header["a"]).toBe(1);
    expect(body.equals(sections.get("s")!)).toBe(true);
  });

  test("is checked by it", () => {
    const bytes = firstVersion({}, new Map([["s", body]]));
    bytes[bytes.length - 1] ^= 1;
    expect(() => decodeContainer(bytes)).toThrow(/section "s" was changed/);
  });
});

test("a section that is written in place comes back, coded or not", () => {
  const write = (target: Uint8Array): void => void target.fill(3);
  const sections = new Map([["s", { byteLength: 1000, write }]]);
  for (const elementSize of [undefined, 4]) {
    const encoded = encodeContainer({ header: {}, sections }, { elementSize });
    expect(decodeContainer(encoded).sections.get("s")).toEqual(new Uint8Array(1000).fill(3));
    expect(encoded.length < 1000).toBe(elementSize !== undefined);
  }
});
