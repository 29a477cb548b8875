/** @file Frames of stored sessions: what goes in comes out, and whatever was changed, cut or moved is refused. */

import { fc } from "../property.js";
import { expect, test } from "vitest";

import { decodeFrame, encodeFrame } from "#precis/stores/frame.js";
import { namespaceOf } from "#precis/stores/session-key.js";

const key = { namespace: "n", id: "session" };
const value = fc.record({
  version: fc.uuid(),
  metadata: fc.dictionary(
    fc.string(),
    fc.jsonValue().map((json) => JSON.parse(JSON.stringify(json)) as string),
  ),
  bytes: fc.uint8Array(),
});

test("frames return what they hold", () => {
  fc.assert(
    fc.property(value, (stored) => {
      expect(decodeFrame(key, encodeFrame(key, stored))).toEqual(stored);
    }),
  );
});

test("a frame with a changed bit, cut anywhere or under another key is refused", () => {
  fc.assert(
    fc.property(value, fc.nat(), (stored, at) => {
      const frame = encodeFrame(key, stored);
      const changed = Uint8Array.from(frame);
      changed[(at >> 3) % frame.length]! ^= 1 << (at % 8);
      const corrupt = expect.objectContaining({ code: "STORE_CORRUPT", value: "session" }) as Error;
      expect(() => decodeFrame(key, changed)).toThrow(corrupt);
      expect(() => decodeFrame(key, frame.subarray(0, at % frame.length))).toThrow(corrupt);
      expect(() => decodeFrame({ ...key, namespace: "m" }, frame)).toThrow(corrupt);
    }),
  );
});

test("each API key has a namespace of its own, which does not tell the key", () => {
  expect(namespaceOf("secret-1")).toBe(namespaceOf("secret-1"));
  expect(namespaceOf("secret-1")).not.toBe(namespaceOf("secret-2"));
  expect(namespaceOf("secret-1")).toMatch(/^[0-9a-f]{32}$/);
});
