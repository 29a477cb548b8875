/** @file A server under attack, and what must hold of every answer that it gives. */
import { expect } from "vitest";
import type { ServerLimits, ServerOptions } from "#precis/server/options.js";
import { createApp, type ServerApp } from "#precis/server/app.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { servedTiny, user } from "../fixture.js";

/** How many times as many tries as in the normal suite; `npm run test:fuzz` sets it. */
export const TIMES: number = Number(process.env["PRECIS_FUZZ_TIMES"] ?? 1);

/** Tries of a property, repeatable by their seed. `PRECIS_FUZZ_SEED` begins elsewhere. */
export function tries(numRuns: number, seed: number): { numRuns: number; seed: number; endOnFailure: boolean } {
  return {
    numRuns: numRuns * TIMES,
    seed: seed + Number(process.env["PRECIS_FUZZ_SEED"] ?? 0),
    endOnFailure: TIMES > 1,
  };
}

/** Longest that a request may take, on a busy machine. */
export const BOUND_MS = 20_000;
/** Longest error in bytes: nobody gets his megabytes back. */
const ERROR_BYTES = 4096;

/** What alice said, which nobody else may ever see. */
export const SECRET = "The canary is called Zebulon.";
/** Her key. */
export const ALICE = { authorization: "Bearer sk-alice-0123" };
/** The attacker's. */
export const MALLORY = { authorization: "Bearer sk-mallory-4567" };

const LIMITS: Partial<ServerLimits> = {
  bodyBytes: 300_000,
  snapshotBytes: 400_000,
  memoryBytes: 24 * 2 ** 20,
  defaultTokens: 3,
  maxTokens: 12,
  sessionWaitMs: 3000,
  // Room for all that a run makes, however long it is; at its end every route must have worked.
  sessions: 200 * TIMES,
  automaticSessions: 16,
  checkpoints: 3,
};

/** A server with alice's session `diary` on it. */
export interface Target {
  app: ServerApp;
  /** Everything logged so far, as text. */
  logged: () => string;
  /** Fails unless alice's session is as it was and answers as it did. */
  unharmed: () => Promise<void>;
}

/** What came back. */
export interface Answered {
  status: number;
  headers: Headers;
  text: string;
}

/** Sends a request and reads all of the answer. */
export async function send(app: ServerApp, path: string, init: RequestInit = {}): Promise<Answered> {
  const response = await app.request(path, init);
  return { status: response.status, headers: response.headers, text: await response.text() };
}

/** A JSON request. */
export function jsonRequest(method: string, text: string | undefined, headers: Record<string, string>): RequestInit {
  if (text === undefined) return { method, headers };
  return { method, headers: { "content-type": "application/json", ...headers }, body: text };
}

/** The error of an answer. */
export function errorOf({ text }: Pick<Answered, "text">): {
  message: string;
  type: string;
  param: string | null;
  code: string;
  next_step: string;
} {
  return (JSON.parse(text) as { error: ReturnType<typeof errorOf> }).error;
}

/** Fails unless an answer is one that a server may give to anything at all. */
export function expectCivil({ status, headers, text }: Answered, about: string): void {
  const shown = `${about} → ${status} ${text.slice(0, 400)}`;
  if (status >= 500) {
    expect([501, 503], shown).toContain(status);
    if (status === 503) expect(Number(headers.get("retry-after")), shown).toBeGreaterThan(0);
  }
  if (status >= 400) {
    expect(headers.get("content-type"), shown).toContain("application/json");
    expectError(text, shown);
  } else if (headers.get("content-type")?.startsWith("text/event-stream") === true) {
    const failed = /^event: error\ndata: (.*)$/m.exec(text)?.[1];
    if (failed !== undefined) expectError(failed, shown);
    expect(text, shown).not.toContain('"server_error"');
  }
}

/** Fails unless a text is an error in the form that OpenAI's clients read, with a code and a next step. */
export function expectError(text: string, about: string): void {
  expect(Buffer.byteLength(text), about).toBeLessThan(ERROR_BYTES);
  const { message, type, param, code, next_step: nextStep } = errorOf({ text });
  expect(message, about).toMatch(/\S/);
  expect(type, about).toMatch(/^[a-z_]+_error$/);
  expect(param === null || typeof param === "string", about).toBe(true);
  expect(code, about).toMatch(/^[a-z][a-z_]*$/);
  expect(nextStep, about).toMatch(/\S/);
}

/** Fails where work does not end in time. */
export async function inTime<Result>(work: Promise<Result>, about: string): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Still no answer after ${BOUND_MS} ms: ${about}`)), BOUND_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A server with two keys, where alice has a session. */
export async function hostileTarget(fixture: Fixture, options: ServerOptions = {}): Promise<Target> {
  const records: unknown[] = [];
  const app = createApp([servedTiny(fixture)], {
    keys: [
      { key: "sk-alice-0123", namespace: "alice" },
      { key: "sk-mallory-4567", namespace: "mallory" },
    ],
    log: (record) => records.push(record),
    ...options,
    limits: { ...LIMITS, ...options.limits },
  });
  const call = (method: string, path: string, body?: object): Promise<Answered> =>
    send(app, path, jsonRequest(method, body && JSON.stringify(body), ALICE));
  await call("POST", "/v1/sessions", { id: "diary", method: "ccm-concat", adapter: "ccm" });
  await call("POST", "/v1/chat/completions", { session: "diary", messages: [user(SECRET)], max_tokens: 4 });
  const ask = async (): Promise<unknown> => {
    const question = { messages: [user("Who?")], answer: "Zebulon" };
    const session = JSON.parse((await call("GET", "/v1/sessions/diary")).text) as { step: number; memory: object };
    const paid = await call("POST", "/v1/sessions/diary/attention", question);
    const plain = { prompt: "Once upon a time", max_tokens: 6, temperature: 0 };
    const completed = JSON.parse((await call("POST", "/v1/completions", plain)).text) as { choices: object[] };
    return { step: session.step, memory: session.memory, paid: paid.text, choices: completed.choices };
  };
  const before = await ask();
  expect(before).toMatchObject({ step: 1, choices: [{ finish_reason: "length" }] });
  return {
    app,
    logged: () => JSON.stringify(records),
    unharmed: async () => expect(await inTime(ask(), "an ordinary client")).toEqual(before),
  };
}
