/** @file Responses whose ids name memories, completions, embeddings, models, metrics and the API's description. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ROUTES } from "#precis/server/routes/table.js";
import type { Fixture } from "../conformance/fixtures.js";
import { readEvents, SHORT, testServer, textOf, tinyFixture, user, type Answer, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = testServer(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

const respond = (body: object): Promise<Answer> =>
  server.post("/v1/responses", { max_output_tokens: 5, ignore_eos: true, ...body });
const outputOf = ({ body }: Answer): string => (body["output"] as [{ content: [{ text: string }] }])[0].content[0].text;
const idOf = ({ body }: Answer): string => body["id"] as string;

describe("a response", () => {
  test("goes on from the memory that its predecessor left", async () => {
    const memory = await fixture.memory({ method: "ccm-concat" });
    const one = await respond({ input: "One", memory: { method: "ccm-concat" } });
    const first = await memory.answer([user("One")], { maxTokens: 5, ignoreEos: true });
    expect(outputOf(one)).toBe(first.text);
    const two = await respond({ input: "Two", previous_response_id: idOf(one) });
    const second = await memory.answer([user("Two")], { maxTokens: 5, ignoreEos: true });
    expect(outputOf(two)).toBe(second.text);
    expect(two.body).toMatchObject({
      object: "response",
      status: "incomplete",
      incomplete_details: { reason: "max_output_tokens" },
      previous_response_id: idOf(one),
      usage: {
        input_tokens_details: { cached_tokens: first.stats.tokensSeen },
        output_tokens: 5,
        memory: { method: "ccm-concat", steps: 2, slots: 4 },
      },
    });
  });

  test("can be followed twice, each time from the same memory", async () => {
    const one = await respond({ input: "Fork" });
    const left = await respond({ input: "left", previous_response_id: idOf(one) });
    const right = await respond({ input: "right", previous_response_id: idOf(one) });
    const again = await respond({ input: "left", previous_response_id: idOf(one) });
    expect(outputOf(again)).toBe(outputOf(left));
    const further = await respond({ input: "on", previous_response_id: idOf(right) });
    expect(further.status).toBe(200);
    const seen = ({ body }: Answer): number =>
      (body["usage"] as { memory: { tokens_seen: number } }).memory.tokens_seen;
    expect(seen(left)).toBeLessThan(seen(further));
  });

  test("is shown again and forgotten, and those that build on it stay", async () => {
    const one = await respond({ input: "Keep", metadata: { a: "b" } });
    const two = await respond({ input: "More", previous_response_id: idOf(one) });
    expect((await server.get(`/v1/responses/${idOf(one)}`)).body).toMatchObject({
      id: idOf(one),
      metadata: { a: "b" },
    });
    expect((await server.call("DELETE", `/v1/responses/${idOf(one)}`)).body).toMatchObject({ deleted: true });
    expect((await server.get(`/v1/responses/${idOf(one)}`)).status).toBe(404);
    const missing = await respond({ input: "?", previous_response_id: idOf(one) });
    expect(missing.status).toBe(404);
    expect(missing.body.error?.param).toBe("previous_response_id");
    expect((await respond({ input: "?", previous_response_id: idOf(two) })).status).toBe(200);
  });

  test("that is not stored leaves nothing behind", async () => {
    const own = testServer(fixture);
    const body = { max_output_tokens: 2, store: false, input: "Gone" };
    const answer = await own.post("/v1/responses", body);
    expect((await own.get(`/v1/responses/${idOf(answer)}`)).status).toBe(404);
    expect(await own.metric("precis_memory_bytes")).toBe(0);
  });

  test("goes on with a session as its conversation", async () => {
    await server.post("/v1/sessions", { id: "conversation", method: "ccm-concat" });
    const one = await respond({ input: "Hi", conversation: "conversation" });
    expect(one.body).toMatchObject({ conversation: { id: "conversation" } });
    await respond({ input: "Ho", conversation: { id: "conversation" }, store: false });
    expect((await server.get("/v1/sessions/conversation")).body).toMatchObject({ step: 2 });
    const branch = await respond({ input: "Ha", previous_response_id: idOf(one) });
    expect(branch.body).toMatchObject({ conversation: null, usage: { memory: { steps: 2 } } });
    expect((await server.get("/v1/sessions/conversation")).body).toMatchObject({ step: 2 });
  });

  test("takes messages and instructions", async () => {
    const parts = [{ type: "message", role: "user", content: [{ type: "input_text", text: "Hi" }] }];
    const one = await respond({ input: parts, instructions: "Brief." });
    const chat = { ...SHORT, messages: [{ role: "system", content: "Brief." }, user("Hi")] };
    expect(outputOf(one)).toBe(textOf(await server.post("/v1/chat/completions", chat)));
  });

  test("streams numbered events that end in the whole", async () => {
    const response = await server.app.request("/v1/responses", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input: "Flow", stream: true, max_output_tokens: 6, ignore_eos: true }),
    });
    const events = await readEvents(response);
    const datas = events.map(({ data }) => data as { type: string; sequence_number: number; delta?: string });
    expect(datas.map(({ sequence_number: number }) => number)).toEqual(datas.map((_, index) => index));
    expect(events.map(({ event }) => event)).toEqual(datas.map(({ type }) => type));
    expect(datas[0]?.type).toBe("response.created");
    const last = datas.at(-1) as unknown as { type: string; response: Answer["body"] };
    expect(last.type).toBe("response.incomplete");
    const text = datas.map(({ delta }) => delta ?? "").join("");
    expect(outputOf({ body: last.response } as Answer)).toBe(text);
  });

  test.each([
    ["background", { background: true }, "unsupported_parameter"],
    ["text.format", { text: { format: { type: "json_schema" } } }, "invalid_value"],
    ["text.format", { text: { format: { type: "xml" } } }, "unsupported_parameter"],
    ["tools.0.type", { tools: [{ type: "web_search" }] }, "unsupported_parameter"],
    ["input.0.call_id", { input: [{ type: "function_call_output" }] }, "invalid_value"],
    ["input.0", { input: [{ type: "function_call" }] }, "invalid_value"],
    ["input.0", { input: [{ type: "reasoning" }] }, "unsupported_parameter"],
    ["conversation", { conversation: "a", previous_response_id: "b" }, "invalid_value"],
    ["memory", { memory: { method: "full" }, previous_response_id: "b" }, "invalid_value"],
  ])("refuses %s", async (param, fields, code) => {
    const answer = await respond({ input: "?", ...fields });
    expect(answer.status).toBe(400);
    expect(answer.body.error).toMatchObject({ param, code });
  });
});

describe("a text completion", () => {
  const complete = (body: object): Promise<Answer> =>
    server.post("/v1/completions", { max_tokens: 5, ignore_eos: true, ...body });
  const texts = ({ body }: Answer): string[] => (body["choices"] as { text: string }[]).map(({ text }) => text);

  test("goes on with a text, or with token ids, without a template", async () => {
    const wanted = await (await fixture.memory()).answer("Once upon", { maxTokens: 5, ignoreEos: true });
    expect(texts(await complete({ prompt: "Once upon" }))).toEqual([wanted.text]);
    const ids = await fixture.model.tokenize("Once upon");
    const both = await complete({ prompt: [ids, [...ids, 40]] });
    expect(texts(both)).toHaveLength(2);
    expect(texts(both)[0]).toBe(wanted.text);
    expect(both.body).toMatchObject({ usage: { completion_tokens: 10, prompt_tokens: 2 * ids.length + 1 } });
  });

  test("streams", async () => {
    const response = await server.app.request("/v1/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "Once upon", stream: true, max_tokens: 5, ignore_eos: true }),
    });
    const events = (await readEvents(response)).slice(0, -1);
    const pieces = events.map(({ data }) => (data as { choices: { text: string }[] }).choices[0]?.text ?? "");
    expect(pieces.join("")).toBe(texts(await complete({ prompt: "Once upon" }))[0]);
  });

  test("remembers nothing but in a session", async () => {
    await server.post("/v1/sessions", { id: "text", method: "streaming" });
    await complete({ prompt: "abc", session: "text" });
    const second = await complete({ prompt: "def", session: "text", logprobs: 2 });
    expect(second.body).toMatchObject({ usage: { memory: { steps: 2 } } });
    const [{ logprobs }] = second.body["choices"] as [{ logprobs: { tokens: string[] } }];
    expect(logprobs.tokens).toHaveLength(5);
  });

  test.each([
    ["echo", { echo: true }],
    ["suffix", { suffix: "x" }],
    ["best_of", { best_of: 3 }],
  ])("refuses %s", async (param, fields) => {
    const answer = await complete({ prompt: "a", ...fields });
    expect(answer.body.error).toMatchObject({ code: "unsupported_parameter", param });
  });

  test("refuses ids that are no tokens", async () => {
    expect((await complete({ prompt: [5, 99_999] })).status).toBe(400);
  });
});

describe("embeddings", () => {
  test("are the mean last hidden states, of length 1", async () => {
    const { body } = await server.post("/v1/embeddings", { input: ["one", "one", "other"] });
    const [a, b, c] = (body["data"] as { embedding: number[] }[]).map(({ embedding }) => embedding) as [
      number[],
      number[],
      number[],
    ];
    expect(a).toHaveLength(fixture.model.info.hiddenSize);
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
    expect(Math.hypot(...a)).toBeCloseTo(1, 5);
    const memory = await fixture.memory();
    const { taps, tokens } = await memory.forward("one", { taps: ["hidden.2"] });
    const states = taps["hidden.2"]?.data as Float32Array;
    const sum = a.map((_, i) => Array.from({ length: tokens }, (__, t) => states[t * a.length + i] as number));
    const mean = sum.map((values) => values.reduce((x, y) => x + y, 0) / tokens);
    a.forEach((value, i) => expect(value).toBeCloseTo((mean[i] as number) / Math.hypot(...mean), 5));
  });

  test("come as base64 too", async () => {
    const { body } = await server.post("/v1/embeddings", { input: "one", encoding_format: "base64" });
    const [{ embedding }] = body["data"] as [{ embedding: string }];
    expect(Buffer.from(embedding, "base64").byteLength).toBe(4 * fixture.model.info.hiddenSize);
  });

  test("refuse what is too long or has another size", async () => {
    const long = await server.post("/v1/embeddings", { input: "x".repeat(3000) });
    expect(long.body.error?.code).toBe("context_length_exceeded");
    expect((await server.post("/v1/embeddings", { input: "x", dimensions: 3 })).status).toBe(400);
  });
});

test("models show their adapters and methods", async () => {
  const { body } = await server.get("/v1/models/tiny");
  expect(body).toMatchObject({
    id: "tiny",
    object: "model",
    precis: { adapters: [{ name: "ccm", method: "ccm-concat" }] },
  });
  expect((await server.get("/v1/models")).body).toMatchObject({ object: "list", data: [{ id: "tiny" }] });
  const answer = await server.post("/v1/chat/completions", { model: "gpt-9", messages: [user("?")] });
  expect(answer.body.error).toMatchObject({ code: "model_not_found", param: "model" });
});

test("the description has every route, with schemas of requests", async () => {
  const { body } = await server.get("/openapi.json");
  const paths = body["paths"] as Record<string, Record<string, { requestBody?: { content: object } }>>;
  const described = Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map((m) => `${m} ${path}`));
  expect(described).toHaveLength(ROUTES.length);
  expect(described).toContain("post /v1/sessions/{id}/rewind");
  const chat = paths["/v1/chat/completions"]?.["post"]?.requestBody?.content as Record<
    string,
    { schema: { required: string[]; properties: Record<string, object> } }
  >;
  expect(chat["application/json"]?.schema.required).toEqual(["messages"]);
  expect(Object.keys(chat["application/json"]?.schema.properties ?? {})).toContain("session");
  expect(JSON.stringify(body)).not.toContain("$schema");
});

test("metrics count tokens, those not read again, and requests by route", async () => {
  const own = testServer(fixture);
  const one = await own.post("/v1/chat/completions", { ...SHORT, messages: [user("Count")] });
  const messages = [user("Count"), { role: "assistant", content: textOf(one) }, user("more")];
  await own.post("/v1/chat/completions", { ...SHORT, messages });
  await own.get("/v1/nowhere");
  expect(await own.metric('precis_tokens_total{kind="generated"}')).toBe(10);
  expect(await own.metric('precis_tokens_total{kind="cached"}')).toBeGreaterThan(5);
  expect(await own.metric('precis_http_requests_total{route="/v1/chat/completions",method="POST",status="200"}')).toBe(
    2,
  );
  expect(await own.metric('precis_http_requests_total{route="unknown",method="GET",status="404"}')).toBe(1);
  expect(await own.metric("precis_jobs_running")).toBe(0);
});
