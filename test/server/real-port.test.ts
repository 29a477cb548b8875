/** @file The official client against a real port: what people point at the server works, and leaving stops the work. */
import { setTimeout as sleep } from "node:timers/promises";
import { AuthenticationError, BadRequestError, NotFoundError, OpenAI } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApp, type ServerApp } from "#precis/server/app.js";
import { listen, type Listening } from "#precis/server/listen.js";
import type { Fixture } from "../conformance/fixtures.js";
import { servedTiny, tinyFixture } from "./fixture.js";

let fixture: Fixture;
let app: ServerApp;
let server: Listening;
let client: OpenAI;
beforeAll(async () => {
  fixture = await tinyFixture();
  app = createApp([servedTiny(fixture)], { keys: [{ key: "sk-test", namespace: "test" }] });
  server = await listen(app, { host: "127.0.0.1", port: 0 });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "sk-test", maxRetries: 0 });
});
afterAll(async () => {
  await server.close();
  await fixture[Symbol.asyncDispose]();
});

const messages = [{ role: "user" as const, content: "Who?" }];

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`, { headers: { authorization: "Bearer sk-test" } })).text();
  return Number(
    text
      .split("\n")
      .find((line) => line.startsWith(name))
      ?.split(" ")
      .at(-1),
  );
}

/** Waits until a metric has a value. */
async function reached(name: string, value: number): Promise<void> {
  for (let i = 0; i < 500 && (await metric(name)) !== value; i++) await sleep(10);
  expect(await metric(name)).toBe(value);
}

/** A streamed chat that would go on for long, begun by hand so that it can be left. */
function begin(session: string | undefined, signal: AbortSignal, stream: boolean): Promise<Response> {
  return fetch(`${server.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
    body: JSON.stringify({ session, messages, stream, max_tokens: 1900, ignore_eos: true }),
    signal,
  });
}

describe("the openai package", () => {
  test("lists models", async () => {
    const models = await client.models.list();
    expect(models.data.map(({ id }) => id)).toEqual(["tiny"]);
    expect((await client.models.retrieve("tiny")).owned_by).toBe("precis");
  });

  test("chats, whole and streamed", async () => {
    const whole = await client.chat.completions.create({ model: "tiny", messages, max_completion_tokens: 8 });
    const stream = await client.chat.completions.create({
      model: "tiny",
      messages,
      max_completion_tokens: 8,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let tokens = 0;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      tokens = chunk.usage?.completion_tokens ?? tokens;
    }
    expect(text).toBe(whole.choices[0]?.message.content);
    expect(tokens).toBe(whole.usage?.completion_tokens);
  });

  test("goes on from a response, whole and streamed", async () => {
    const first = await client.responses.create({ model: "tiny", input: "My cat is Ada.", max_output_tokens: 6 });
    expect(first.output_text).not.toBe("");
    const next = { model: "tiny", input: "Who is Ada?", max_output_tokens: 6, previous_response_id: first.id };
    const second = await client.responses.create(next);
    expect(second.usage?.input_tokens_details.cached_tokens).toBeGreaterThan(10);
    const stream = client.responses.stream(next);
    let text = "";
    for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
    expect(text).toBe(second.output_text);
    expect((await stream.finalResponse()).output_text).toBe(second.output_text);
    expect((await client.responses.retrieve(second.id)).output_text).toBe(second.output_text);
  });

  test("embeds", async () => {
    const { data } = await client.embeddings.create({ model: "tiny", input: ["a", "b"] });
    expect(data).toHaveLength(2);
    expect(Math.hypot(...(data[0]?.embedding as number[]))).toBeCloseTo(1, 4);
  });

  test("completes texts", async () => {
    const { choices } = await client.completions.create({ model: "tiny", prompt: "Once", max_tokens: 4 });
    expect(choices[0]?.text).not.toBe("");
  });

  test("gets its own error classes", async () => {
    const body = { model: "tiny", messages, max_completion_tokens: 0 };
    await expect(client.chat.completions.create(body)).rejects.toBeInstanceOf(BadRequestError);
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "sk-wrong", maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toBeInstanceOf(AuthenticationError);
    await expect(client.models.retrieve("other")).rejects.toBeInstanceOf(NotFoundError);
  });
});

describe("a client that goes away", () => {
  const headers = { "content-type": "application/json", authorization: "Bearer sk-test" };
  const make = (id: string): Promise<Response> =>
    fetch(`${server.url}/v1/sessions`, { method: "POST", headers, body: JSON.stringify({ id, method: "full" }) });
  const steps = async (id: string): Promise<unknown> =>
    ((await (await fetch(`${server.url}/v1/sessions/${id}`, { headers })).json()) as { step: unknown }).step;

  test("while its answer streams stops the work, and the session is as before", async () => {
    await make("left");
    const leave = new AbortController();
    const response = await begin("left", leave.signal, true);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    expect(await metric("precis_jobs_running")).toBe(1);
    leave.abort();
    await reached("precis_jobs_running", 0);
    await reached("precis_aborted_total", 1);
    expect(await metric('precis_tokens_total{kind="generated"}')).toBeLessThan(200);
    expect(await steps("left")).toBe(0);
  });

  test("while it waits for the whole answer stops the work too", async () => {
    await make("unread");
    const leave = new AbortController();
    const waiting = begin("unread", leave.signal, false).catch((error: unknown) => error);
    await reached("precis_jobs_running", 1);
    leave.abort();
    await waiting;
    await reached("precis_jobs_running", 0);
    expect(await steps("unread")).toBe(0);
  });
});

describe("closing", () => {
  test("lets a stream finish, and then takes no one", async () => {
    const own = await listen(createApp([servedTiny(fixture)]), { host: "127.0.0.1", port: 0 });
    const mine = new OpenAI({ baseURL: `${own.url}/v1`, apiKey: "none", maxRetries: 0 });
    const stream = await mine.chat.completions.create({ model: "tiny", messages, max_tokens: 60, stream: true });
    let closing: Promise<void> | undefined;
    let reason: string | null | undefined;
    for await (const chunk of stream) {
      closing ??= own.close(10_000);
      reason = chunk.choices[0]?.finish_reason ?? reason;
    }
    expect(reason).toMatch(/stop|length/);
    await closing;
    await expect(fetch(`${own.url}/health`)).rejects.toThrow();
  });

  test("a port that is taken is said to be", async () => {
    const taken = listen(app, { host: "127.0.0.1", port: server.port });
    await expect(taken).rejects.toMatchObject({ code: "OPTION_INVALID", message: /another program listens/ });
  });
});
