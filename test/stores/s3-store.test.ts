/** @file The store in a bucket does what every store must, on servers with and without conditional deletes. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { S3Store } from "#precis/stores/s3-store.js";
import { parseS3Url } from "#precis/stores/s3-url.js";
import { expectError } from "../conformance/expect-error.js";
import { credentials, S3TestServer } from "./s3-server.js";
import { describeStore } from "./store-suite.js";

const key = { namespace: "n", id: "session" };
const value = (text: string): { bytes: Buffer; metadata: object & Record<string, never> } => ({
  bytes: Buffer.from(text),
  metadata: {},
});

for (const conditions of ["all", "writes"] as const) {
  // Pages of 5 make every listing go on and on.
  const server = new S3TestServer(["memories"], { conditions, pageSize: 5 });
  beforeAll(() => server.start());
  afterAll(() => server.stop());
  describeStore(`S3 (conditions of ${conditions})`, () => ({
    open: () => S3Store.open(`s3://memories/a prefix?endpoint=${server.endpoint}`, { credentials }),
    alter: async ({ namespace, id }, change) => {
      const name = `a prefix/sessions/${namespace}/${id}`;
      server.store("memories", name, Buffer.from(change(server.objects("memories").get(name)!.body)));
    },
  }));
}

describe("a bucket", () => {
  const server = new S3TestServer(["memories"]);
  const url = (bucket = "memories"): string => `s3://${bucket}?endpoint=${server.endpoint}`;
  beforeAll(() => server.start());
  afterAll(() => server.stop());

  test("is not used where appends could get lost", async () => {
    const careless = await new S3TestServer(["memories"], { conditions: "none" }).start();
    const opened = S3Store.open(`s3://memories?endpoint=${careless.endpoint}`, { credentials });
    await expectError(opened, "STORE_UNAVAILABLE", /ignores If-Match/, /conditional writes/);
    expect([...careless.objects("memories").keys()]).toEqual([]);
    await careless.stop();
  });

  test("that is not there, keys that are wrong and a server that is down are told apart from missing sessions", async () => {
    await expectError(S3Store.open(url("other"), { credentials }), "STORE_UNAVAILABLE", /NoSuchBucket/);
    const wrong = { ...credentials, secretAccessKey: "wrong" };
    await expectError(S3Store.open(url(), { credentials: wrong }), "STORE_UNAVAILABLE", /SignatureDoesNotMatch/);
    await expectError(S3Store.open("s3://b?endpoint=http://127.0.0.1:1", { credentials }), "STORE_UNAVAILABLE");
  });

  test("leaves nothing of a deleted session or a released lease", async () => {
    const store = await S3Store.open(url(), { credentials });
    const version = await store.put(key, value("x"), undefined);
    const lease = await store.acquireLease(key, "me", 1000);
    expect([...server.objects("memories").keys()].sort()).toEqual(["leases/n/session", "sessions/n/session"]);
    await store.delete(key, version);
    await store.releaseLease(lease);
    expect(server.objects("memories").size).toBe(0);
    await store.close();
  });

  test("knows a write of its own whose answer got lost", async () => {
    const store = await S3Store.open(url(), { credentials });
    let cuts = 1;
    server.quirks.cut = (method) => method === "PUT" && cuts-- > 0;
    const first = await store.put(key, value("1"), undefined);
    cuts = 1;
    const second = await store.put(key, value("2"), first);
    expect(await store.get(key)).toMatchObject({ version: second });
    server.quirks.cut = undefined;
    await store.close();
  });

  test("is used again once its server is back", async () => {
    const store = await S3Store.open(url(), { credentials });
    const version = await store.put({ ...key, id: "lasting" }, value("1"), undefined);
    await server.stop();
    await expectError(store.get({ ...key, id: "lasting" }), "STORE_UNAVAILABLE");
    await server.start();
    expect(await store.get({ ...key, id: "lasting" })).toMatchObject({ version });
    await store.close();
  });
});

describe("the address of a bucket", () => {
  test("has a bucket, a prefix and where the server is", () => {
    expect(parseS3Url("s3://b/some/prefix/?endpoint=http://host:9000&region=eu-1")).toEqual({
      bucket: "b",
      prefix: "some/prefix/",
      endpoint: "http://host:9000",
      region: "eu-1",
      pathStyle: true,
    });
    expect(parseS3Url("s3://b")).toMatchObject({ prefix: "", endpoint: undefined, pathStyle: false });
  });

  test.each([
    ["http://b", /s3:\/\/BUCKET/],
    ["s3://", /s3:\/\/BUCKET/],
    ["s3://id:secret@b", /keys do not belong/],
    ["s3://b?endpont=http://x", /"endpont" is none of endpoint, region, style/],
    ["s3://b?endpoint=ftp://x", /endpoint/],
    ["s3://b?style=round", /neither path nor host/],
  ])("%s is refused", (text, problem) => {
    expect(() => parseS3Url(text)).toThrow(problem);
    expect(() => parseS3Url(text)).not.toThrow(/id:secret/);
  });
});
