/** @file A thousand hostile requests leave nothing behind: no memory, no work, no sessions beyond the limits. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, expect, test } from "vitest";
import { fc } from "../../property.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { tinyFixture, user } from "../fixture.js";
import { hostileValue, spelled } from "./hostile-values.js";
import { expectCivil, hostileTarget, inTime, jsonRequest, MALLORY, send, type Target } from "./support.js";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** What may stay: caches of bounded size, and what the log of this test holds. */
const ALLOWED_BYTES = 12 * 2 ** 20;
const REQUESTS = 1000;

let fixture: Fixture;
let target: Target;
beforeAll(async () => {
  fixture = await tinyFixture();
  target = await hostileTarget(fixture, { log: () => undefined });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const PATHS = [
  "/v1/chat/completions",
  "/v1/responses",
  "/v1/completions",
  "/v1/embeddings",
  "/v1/sessions",
  "/v1/sessions/none/append",
  "/v1/sessions/import",
];

async function attackAll(seed: number): Promise<void> {
  const values = fc.sample(fc.tuple(fc.constantFrom(...PATHS), hostileValue, fc.boolean()), {
    seed,
    numRuns: REQUESTS,
  });
  for (const [index, [path, value, streams]] of values.entries()) {
    const messages = index % 3 === 0 ? value : [user(`${seed} ${index}`)];
    const body = { messages, input: value, prompt: value, metadata: value, stream: streams, max_tokens: 1 };
    const at = `${path}${index % 5 === 0 ? `/${seed}-${index}` : ""}`;
    const answer = await inTime(send(target.app, at, jsonRequest("POST", spelled(body), MALLORY)), at);
    expectCivil(answer, at);
  }
}

async function heapBytes(): Promise<number> {
  await new Promise((resolve) => setImmediate(resolve));
  collect();
  return process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers;
}

test("the heap, the metrics and the queues are as before", async () => {
  await attackAll(51);
  const before = await heapBytes();
  await attackAll(52);
  expect((await heapBytes()) - before).toBeLessThan(ALLOWED_BYTES);
  const metrics = (await send(target.app, "/metrics", { headers: MALLORY })).text;
  expect(metrics).toMatch(/^precis_jobs_running 0$/m);
  expect(metrics).toMatch(/^precis_jobs_queued 0$/m);
  // A path that nobody serves is no time series of its own.
  expect(metrics.length).toBeLessThan(30_000);
  await target.unharmed();
});
