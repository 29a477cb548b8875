/** @file A server of the tiny random model, and short ways to call it. */
import { createApp, type ServerApp } from "#precis/server/app.js";
import type { ServerOptions } from "#precis/server/options.js";
import type { ServedModel } from "#precis/server/models.js";
import { createFixture, type Fixture } from "../conformance/fixtures.js";

/** An answer, read. */
export interface Answer {
  status: number;
  headers: Headers;
  // Tests look into answers of any form.
  body: Record<string, unknown> & { error?: { code: string; type: string; param: string | null; message: string } };
}

/** A server under test. */
export interface TestServer {
  app: ServerApp;
  /** Sends JSON and reads JSON. */
  call: (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>;
  post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Answer>;
  get: (path: string, headers?: Record<string, string>) => Promise<Answer>;
  /** A value of /metrics. */
  metric: (name: string) => Promise<number>;
}

/** The tiny model as a server offers it: full caches by default, and one compressing adapter. */
export function servedTiny(fixture: Fixture, id = "tiny"): ServedModel {
  const adapters = [{ name: "ccm", directory: fixture.adapter.directory, method: "ccm-concat" }];
  return { id, model: fixture.model, adapters, setup: { method: "full" }, created: 1 };
}

/** A server without a port. */
export function testServer(fixture: Fixture, options: ServerOptions = {}): TestServer {
  const app = createApp([servedTiny(fixture)], options);
  const call: TestServer["call"] = async (method, path, body, headers = {}) => {
    const response = await app.request(path, {
      method,
      headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, headers: response.headers, body: (await response.json()) as Answer["body"] };
  };
  return {
    app,
    call,
    post: (path, body, headers) => call("POST", path, body, headers),
    get: (path, headers) => call("GET", path, undefined, headers),
    metric: async (name) => {
      const text = await (await app.request("/metrics")).text();
      const line = text.split("\n").find((candidate) => candidate.startsWith(name));
      return Number(line?.split(" ").at(-1) ?? 0);
    },
  };
}

/** The tiny model, whose ids up to 5 are special and the others bytes. */
export function tinyFixture(): Promise<Fixture> {
  return createFixture({ seed: 21 });
}

/** Fields that make answers short and repeatable. */
export const SHORT = { max_completion_tokens: 5, ignore_eos: true } as const;

/** A message of a user. */
export function user(content: string): { role: string; content: string } {
  return { role: "user", content };
}

/** The text of a chat completion. */
export function textOf({ body }: Answer, choice = 0): string {
  const choices = body["choices"] as { message: { content: string } }[];
  return (choices[choice] as { message: { content: string } }).message.content;
}

/** The events of a stream: names and data; data is parsed unless it is `[DONE]`. */
export async function readEvents(response: Response): Promise<{ event: string | undefined; data: unknown }[]> {
  const text = await response.text();
  return text
    .split("\n\n")
    .filter((block) => block !== "")
    .map((block) => {
      const event = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1] ?? "";
      return { event, data: data === "[DONE]" ? data : (JSON.parse(data) as unknown) };
    });
}
