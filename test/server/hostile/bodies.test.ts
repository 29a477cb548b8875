/** @file Every route of the server's own description, with bodies and queries that fit, nearly fit or are no requests. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fc } from "../../property.js";
import { describeApi } from "#precis/server/openapi.js";
import { ROUTES } from "#precis/server/routes/table.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { tinyFixture } from "../fixture.js";
import { hostileText, spelled } from "./hostile-values.js";
import { fitting, nearlyFitting, type Schema } from "./schema-values.js";
import {
  expectCivil,
  hostileTarget,
  inTime,
  jsonRequest,
  MALLORY,
  SECRET,
  send,
  tries,
  type Answered,
  type Target,
} from "./support.js";

interface Operation {
  method: string;
  path: string;
  body: Schema | undefined;
  query: { name: string; schema: Schema }[];
}

interface Described {
  parameters: { name: string; in: string; schema: Schema }[];
  requestBody?: { content: Record<string, { schema: Schema }> };
}

/** What the description says there is, so that a new route is attacked from its first day. */
const OPERATIONS: readonly Operation[] = Object.entries(
  describeApi(ROUTES, { version: "1", secured: true })["paths"] as Record<string, Record<string, Described>>,
).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { parameters, requestBody }]) => ({
    method: method.toUpperCase(),
    path,
    body: requestBody?.content["application/json"]?.schema,
    query: parameters.filter((parameter) => parameter.in === "query"),
  })),
);

let fixture: Fixture;
let target: Target;
/** Routes that did what they were asked to at least once. */
const served = new Set<string>();
beforeAll(async () => {
  fixture = await tinyFixture();
  target = await hostileTarget(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

/** Sends what an attacker would, and checks what must hold of any answer. */
async function attack(method: string, path: string, init: RequestInit): Promise<Answered> {
  const about = `${method} ${path} ${typeof init.body === "string" ? init.body.slice(0, 600) : ""}`;
  const answer = await inTime(send(target.app, path, init), about);
  expectCivil(answer, about);
  expect(answer.text, about).not.toContain(SECRET);
  if (answer.status < 300) served.add(`${method} ${routeOf(path)}`);
  return answer;
}

/** The route of a path with one of the ids below. */
function routeOf(path: string): string {
  return path
    .replace(/\?.*$/, "")
    .replace(/^(\/v1\/sessions|\/v1\/responses|\/v1\/models)\/(?!import)[^/]+/, "$1/{id}");
}

/** Sessions of the attacker's that requests may name; earlier ones may have deleted them. */
async function prepare(): Promise<void> {
  const make = (body: object): RequestInit => jsonRequest("POST", JSON.stringify(body), MALLORY);
  await send(target.app, "/v1/sessions", make({ id: "mine", method: "ccm-concat", adapter: "ccm" }));
  await send(target.app, "/v1/sessions", make({ id: "empty", method: "full" }));
  await send(target.app, "/v1/sessions/mine/append", make({ text: "hello" }));
}

const idOf = fc.constantFrom("mine", "mine", "tiny", "empty", "diary", "none");

function pathOf({ path, query }: Operation, hostile: boolean): fc.Arbitrary<string> {
  const pairs = fc.tuple(
    ...query.map(({ name, schema }) =>
      fc.tuple(fc.constant(name), fc.option(hostile ? hostileText : fitting(schema, name), { nil: undefined })),
    ),
  );
  return fc.tuple(idOf, pairs).map(([id, given]) => {
    const search = new URLSearchParams(
      given.filter(([, value]) => value !== undefined).map(([name, value]): [string, string] => [name, String(value)]),
    );
    return `${path.replace("{id}", id)}?${search}`;
  });
}

describe.each(OPERATIONS)("$method $path", (operation) => {
  const { method, body } = operation;
  afterEach(() => target.unharmed());

  test("stands what its schema allows, and what it nearly allows", async () => {
    const bodies = body === undefined ? fc.constant(undefined) : fc.oneof(fitting(body), nearlyFitting(body));
    const runs = body === undefined ? 12 : 80;
    await fc.assert(
      fc.asyncProperty(pathOf(operation, false), bodies, async (path, value) => {
        await prepare();
        await attack(method, path, jsonRequest(method, value === undefined ? undefined : spelled(value), MALLORY));
      }),
      tries(runs, 11),
    );
  });

  test("stands queries of any kind", async () => {
    await fc.assert(
      fc.asyncProperty(pathOf(operation, true), async (path) => {
        await prepare();
        await attack(method, path, jsonRequest(method, body && "{}", MALLORY));
      }),
      tries(operation.query.length === 0 ? 1 : 20, 12),
    );
  });

  test.runIf(method !== "GET")("stands bytes that are no request", async () => {
    await prepare();
    const truncated = fc
      .tuple(body === undefined ? fc.constant({}) : fitting(body), fc.double({ min: 0, max: 1, noNaN: true }))
      .map(([value, share]) => {
        const bytes = new TextEncoder().encode(spelled(value));
        return bytes.slice(0, Math.floor(bytes.length * share));
      });
    const types = fc.constantFrom("application/json", "application/json; charset=latin1", "text/plain", "", "\u00ff/x");
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 400 }), truncated);
    await fc.assert(
      fc.asyncProperty(pathOf(operation, false), types, bytes, async (path, type, given) => {
        const headers = { ...MALLORY, ...(type === "" ? {} : { "content-type": type }) };
        await attack(method, path, { method, headers, body: new Uint8Array(given) });
      }),
      tries(20, 13),
    );
  });
});

test("the description names every route that there is", () => {
  expect(OPERATIONS).toHaveLength(ROUTES.length);
});

test("much of it was no nonsense: nearly all routes were made to work, too", () => {
  const all = OPERATIONS.map(({ method, path }) => `${method} ${path}`);
  // Their ids are the server's own, and a snapshot is no accident.
  const rare = ["GET /v1/responses/{id}", "DELETE /v1/responses/{id}", "POST /v1/sessions/import"];
  expect(all.filter((operation) => !served.has(operation) && !rare.includes(operation)).join()).toBe("");
});

test("nothing of all that reached the log", async () => {
  expect(target.logged()).not.toContain(SECRET);
  expect(target.logged()).not.toContain("sk-mallory");
  expect(target.logged()).not.toContain('"level":"error"');
});
