/** @file Snapshots that nobody exported: flipped, cut, foreign, and made by hand with digests that are right. */
import { createHash } from "node:crypto";
import { crc32, deflateRawSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fc } from "../../property.js";
import { decodeContainer, encodeContainer, type Container } from "#precis/codec/container.js";
import { createApp } from "#precis/server/app.js";
import { createFixture, type Fixture } from "../../conformance/fixtures.js";
import { servedTiny, tinyFixture, user } from "../fixture.js";
import { hostileValue, spelled } from "./hostile-values.js";
import {
  ALICE,
  errorOf,
  expectCivil,
  hostileTarget,
  inTime,
  jsonRequest,
  MALLORY,
  send,
  tries,
  type Answered,
  type Target,
} from "./support.js";

/** Of `PRECISM`, the version, the header's length, and the header's digest. */
const [VERSION_AT, LENGTH_AT, DIGEST_AT, HEADER_AT] = [7, 8, 12, 44];

let fixture: Fixture;
let target: Target;
let good: Uint8Array<ArrayBuffer>;
beforeAll(async () => {
  fixture = await tinyFixture();
  target = await hostileTarget(fixture);
  good = await exportOf("diary");
});
afterEach(async () => {
  for (const id of ["offered", "offered-fork"]) {
    await send(target.app, `/v1/sessions/${id}`, { method: "DELETE", headers: MALLORY });
  }
  await target.unharmed();
});
afterAll(() => fixture[Symbol.asyncDispose]());

async function exportOf(id: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await target.app.request(`/v1/sessions/${id}/snapshot`, { headers: ALICE });
  return new Uint8Array(await response.arrayBuffer());
}

/** Imports bytes under a name; what can be imported is used and deleted again. */
async function offer(bytes: Uint8Array, about: string): Promise<Answered> {
  const headers = { ...MALLORY, "content-type": "application/octet-stream" };
  const body = new Uint8Array(bytes);
  const answer = await inTime(
    send(target.app, "/v1/sessions/import?id=offered", { method: "POST", headers, body }),
    about,
  );
  expectCivil(answer, about);
  if (answer.status === 201) await use(about);
  const left = await send(target.app, "/v1/sessions/offered", { headers: MALLORY });
  expect(left.status, about).toBe(404);
  return answer;
}

/** Does with an imported session what one does with sessions. */
async function use(about: string): Promise<void> {
  const messages = [user("Who?")];
  for (const [method, path, body] of [
    ["GET", "/v1/sessions/offered"],
    ["GET", "/v1/sessions/offered/memory"],
    ["POST", "/v1/sessions/offered/attention", { messages }],
    ["POST", "/v1/sessions/offered/append", { text: "More." }],
    ["POST", "/v1/chat/completions", { session: "offered", messages, max_tokens: 3 }],
    ["POST", "/v1/sessions/offered/fork", { id: "offered-fork" }],
    ["GET", "/v1/sessions/offered/snapshot"],
    ["DELETE", "/v1/sessions/offered-fork"],
    ["DELETE", "/v1/sessions/offered"],
  ] as const) {
    const shown = `${method} ${path} of ${about}`;
    const answer = await inTime(
      send(target.app, path, jsonRequest(method, body && JSON.stringify(body), MALLORY)),
      shown,
    );
    if (!path.endsWith("/snapshot")) expectCivil(answer, shown);
  }
}

function changed(at: number, flip: number): Uint8Array {
  const bytes = new Uint8Array(good);
  bytes[at] = (bytes[at] as number) ^ flip;
  return bytes;
}

/** A container whose digests are right, whatever it says. */
function forged(header: string, sections: Uint8Array): Uint8Array {
  const json = Buffer.from(header);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(json.length);
  const digest = createHash("sha256").update(json).digest();
  return new Uint8Array(Buffer.concat([good.subarray(0, LENGTH_AT), length, digest, json, sections]));
}

test("a good one is taken", async () => {
  expect((await offer(good, "good")).status).toBe(201);
});

describe("damaged bytes", () => {
  test("are refused wherever they lie", async () => {
    const headerEnd = HEADER_AT + Buffer.from(good).readUInt32LE(LENGTH_AT);
    const classes = [0, VERSION_AT, LENGTH_AT, DIGEST_AT, HEADER_AT, headerEnd, good.length];
    for (const [index, start] of classes.slice(0, -1).entries()) {
      const place = fc.integer({ min: start, max: (classes[index + 1] as number) - 1 });
      await fc.assert(
        fc.asyncProperty(place, fc.integer({ min: 0, max: 7 }), async (at, bit) => {
          const answer = await offer(changed(at, 1 << bit), `bit ${bit} of byte ${at}`);
          expect(answer.status).toBe(400);
          expect(errorOf(answer).code).toBe("snapshot_corrupt");
        }),
        tries(12, 31 + index),
      );
    }
  });

  test("are refused where some are missing, or too many", async () => {
    const length = fc.oneof(fc.constantFrom(0, 1, 7, 8, 12, 43, 44, good.length - 1), fc.nat(good.length - 1));
    await fc.assert(
      fc.asyncProperty(length, async (end) => {
        const answer = await offer(good.subarray(0, end), `${end} bytes`);
        expect(answer.status).toBe(400);
        expect(errorOf(answer).code).toBe("snapshot_corrupt");
      }),
      tries(20, 32),
    );
    const twice = Buffer.concat([good, good]);
    for (const bytes of [Buffer.concat([good, Buffer.from([0])]), twice]) {
      expect(errorOf(await offer(bytes, "too many")).code).toBe("snapshot_corrupt");
    }
  });

  test("of another version are refused as such", async () => {
    for (const version of [0, 3, 255]) {
      const bytes = new Uint8Array(good);
      bytes[VERSION_AT] = version;
      expect(errorOf(await offer(bytes, "version")).message).toContain(`version ${version}`);
    }
  });
});

describe("another's memory", () => {
  test("of another model is refused", async () => {
    await using other = await createFixture({ seed: 77 });
    const app = createApp([servedTiny(other)]);
    await send(app, "/v1/sessions", jsonRequest("POST", '{"id":"a","method":"full"}', {}));
    await send(app, "/v1/sessions/a/append", jsonRequest("POST", '{"text":"Hello"}', {}));
    const response = await app.request("/v1/sessions/a/snapshot");
    const answer = await offer(new Uint8Array(await response.arrayBuffer()), "another model");
    expect(answer.status).toBe(409);
    expect(errorOf(answer).code).toBe("snapshot_mismatch");
  });

  test("of another adapter is refused, named or not", async () => {
    const memory = await fixture.memory({ method: "sentinel" });
    await memory.append("Hello there, all of you.");
    const bytes = await memory.snapshot();
    const answer = await offer(bytes, "another adapter");
    expect(answer.status).toBe(409);
    expect(errorOf(answer).code).toBe("snapshot_mismatch");
    const headers = { ...MALLORY, "content-type": "application/octet-stream" };
    const named = await send(target.app, "/v1/sessions/import?adapter=ccm", {
      method: "POST",
      headers,
      body: new Uint8Array(bytes),
    });
    expect(named.status).toBe(409);
  });
});

describe("a forged snapshot", () => {
  const parts = (): Container => decodeContainer(good);
  const rawSections = (): Uint8Array => good.subarray(HEADER_AT + Buffer.from(good).readUInt32LE(LENGTH_AT));
  const rawHeader = (): Record<string, unknown> => {
    const end = HEADER_AT + Buffer.from(good).readUInt32LE(LENGTH_AT);
    return JSON.parse(Buffer.from(good).toString("utf8", HEADER_AT, end)) as Record<string, unknown>;
  };

  test("with a right digest and a wrong field harms nobody", async () => {
    const fields = Object.keys(rawHeader());
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...fields), hostileValue, async (field, value) => {
        const header = spelled({ ...rawHeader(), [field]: value });
        await offer(forged(header, rawSections()), `${field} = ${spelled(value).slice(0, 100)}`);
      }),
      tries(120, 33),
    );
  });

  test("with a wrong value deep inside harms nobody", async () => {
    const places: (string | number)[][] = [];
    const walk = (value: unknown, at: (string | number)[]): void => {
      if (at.length > 0) places.push(at);
      if (typeof value !== "object" || value === null) return;
      for (const [name, inner] of Object.entries(value))
        walk(inner, [...at, Array.isArray(value) ? Number(name) : name]);
    };
    walk(rawHeader(), []);
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...places), hostileValue, async (at, value) => {
        const header = rawHeader();
        let inner = header as Record<string | number, unknown>;
        for (const name of at.slice(0, -1)) inner = inner[name] as typeof inner;
        inner[at.at(-1) as string] = value;
        await offer(forged(spelled(header), rawSections()), `${at.join(".")} = ${spelled(value).slice(0, 100)}`);
      }),
      tries(200, 34),
    );
  });

  test("with rows of NaN, infinities or huge numbers harms nobody", async () => {
    const { header, sections } = parts();
    for (const value of [NaN, Infinity, -Infinity, 3.4e38, -3.4e38, 1e-45]) {
      const rows = new Map([...sections].map(([name, bytes]) => [name, new Uint8Array(bytes)]));
      for (const bytes of rows.values()) {
        const view = new DataView(bytes.buffer);
        for (let at = 0; at + 4 <= bytes.length; at += 4) view.setFloat32(at, value, true);
      }
      await offer(encodeContainer({ header, sections: rows }), `rows of ${value}`);
    }
  });

  test("with a small section that unpacks to gigabytes is refused at once", async () => {
    const { header } = parts();
    const gigabytes = 2 ** 31;
    const bomb = deflateRawSync(Buffer.alloc(32 * 2 ** 20));
    const entry = (name: string, coded: number): object => ({
      name,
      length: bomb.length,
      crc32: crc32(bomb).toString(16).padStart(8, "0"),
      coded: { elementSize: 4, length: coded },
    });
    for (const claimed of [gigabytes, 32 * 2 ** 20]) {
      const names = Array.from({ length: 8 }, (_, i) => `keys.${i}`);
      const table = names.map((name) => entry(name, claimed));
      const bytes = forged(JSON.stringify({ ...header, sections: table }), Buffer.concat(names.map(() => bomb)));
      const before = process.memoryUsage().rss;
      const startedAt = performance.now();
      const answer = await offer(bytes, `a section of ${claimed}`);
      expect(errorOf(answer).code).toBe("snapshot_corrupt");
      expect(process.memoryUsage().rss - before).toBeLessThan(200 * 2 ** 20);
      expect(performance.now() - startedAt).toBeLessThan(1000);
    }
  });

  test("with sections that overlap, repeat or are missing is refused", async () => {
    const { header, sections } = parts();
    const [first] = sections;
    const without = new Map([...sections].slice(1));
    const more = new Map([...sections, ["__proto__", new Uint8Array(4)] as const]);
    expect((await offer(encodeContainer({ header, sections: without }), "one missing")).status).toBe(400);
    await offer(encodeContainer({ header, sections: more }), "one too many");
    const { sections: table } = rawHeader() as { sections: object[] };
    const repeated = forged(
      JSON.stringify({ ...header, sections: [...table, table[0]] }),
      Buffer.concat([rawSections(), (first as [string, Uint8Array])[1]]),
    );
    await offer(repeated, "one twice");
  });
});

test("one that holds more than the server may is refused, and takes no name", async () => {
  const small = await hostileTarget(fixture, { limits: { memoryBytes: 100 * fixture.model.info.bytesPerSlot } });
  const memory = await fixture.memory({ method: "full" });
  await memory.append("x".repeat(300));
  const body = new Uint8Array(await memory.snapshot());
  const headers = { ...MALLORY, "content-type": "application/octet-stream" };
  const answer = await send(small.app, "/v1/sessions/import?id=large", { method: "POST", headers, body });
  expect(errorOf(answer).code).toBe("memory_budget_exceeded");
  expect((await send(small.app, "/v1/sessions/large", { headers: MALLORY })).status).toBe(404);
});
