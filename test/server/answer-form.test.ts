/** @file Formats and functions over HTTP: answers that parse and validate, calls and their results, and what is refused. */
import { Ajv } from "ajv";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Fixture } from "../conformance/fixtures.js";
import { readEvents, testServer, textOf, tinyFixture, user, type Answer, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = testServer(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

const CHAT = "/v1/chat/completions";
const RESPONSES = "/v1/responses";

const PERSON = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 8 },
    age: { type: "integer", minimum: 0, maximum: 120 },
    tags: { type: "array", items: { enum: ["kind", "brave"] }, maxItems: 2 },
    friend: { anyOf: [{ type: "null" }, { $ref: "#/$defs/id" }] },
  },
  required: ["name", "age", "tags", "friend"],
  additionalProperties: false,
  $defs: { id: { type: "string", enum: ["a1", "b2"] } },
};
const SHIFT = {
  name: "shift",
  description: "Moves it.",
  strict: true,
  parameters: {
    type: "object",
    properties: { by: { type: "integer", minimum: -9, maximum: 9 }, unit: { enum: ["mm", "inch"] } },
    required: ["by", "unit"],
    additionalProperties: false,
  },
};
const STOP = { name: "stop_now" };
const CHAT_TOOLS = [SHIFT, STOP].map((described) => ({ type: "function", function: described }));
const RESPONSE_TOOLS = [SHIFT, STOP].map((described) => ({ type: "function", ...described }));

interface Call {
  id: string;
  type: string;
  function: { name: string; arguments: string };
}

interface Message {
  role: string;
  content: string | null;
  tool_calls?: Call[];
}

function messageOf({ body }: Answer): Message {
  return (body["choices"] as { message: Message }[])[0]?.message as Message;
}

function finishOf({ body }: Answer): unknown {
  return (body["choices"] as { finish_reason: string }[])[0]?.finish_reason;
}

function cachedOf({ body }: Answer): number {
  return (body["usage"] as { prompt_tokens_details: { cached_tokens: number } }).prompt_tokens_details.cached_tokens;
}

function expectFits({ name, arguments: given }: { name: string; arguments: string }): void {
  const schema = name === "shift" ? SHIFT.parameters : { type: "object", maxProperties: 0 };
  expect(new Ajv().validate(schema, JSON.parse(given)), given).toBe(true);
}

const stream = async (path: string, body: object): Promise<{ event: string | undefined; data: unknown }[]> => {
  const headers = { "content-type": "application/json" };
  return readEvents(await server.app.request(path, { method: "POST", headers, body: JSON.stringify(body) }));
};

describe("a response format", () => {
  const schemaFormat = { type: "json_schema", json_schema: { name: "person", strict: true, schema: PERSON } };

  test.each([1, 2, 3, 4])(
    "with a schema gives JSON that validates, however random the model (seed %i)",
    async (seed) => {
      const body = { messages: [user("Who?")], response_format: schemaFormat, temperature: 1.5, seed, max_tokens: 300 };
      const answer = await server.post(CHAT, body);
      expect(answer.status).toBe(200);
      expect(finishOf(answer)).toBe("stop");
      expect(new Ajv().validate(PERSON, JSON.parse(textOf(answer)))).toBe(true);
      const events = await stream(CHAT, { ...body, stream: true });
      const chunks = events.slice(0, -1).map(({ data }) => data as { choices: { delta: { content?: string } }[] });
      expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(textOf(answer));
    },
  );

  test("json_object gives an object, or is cut off with length", async () => {
    for (let seed = 0; seed < 4; seed++) {
      const format = { response_format: { type: "json_object" }, temperature: 2, seed };
      const answer = await server.post(CHAT, { messages: [user("?")], ...format, max_tokens: 400 });
      expect(textOf(answer)).toMatch(/^\{/);
      if (finishOf(answer) === "stop") expect(typeof JSON.parse(textOf(answer))).toBe("object");
      else expect(finishOf(answer)).toBe("length");
    }
  });

  test("that is cut off says so", async () => {
    const answer = await server.post(CHAT, { messages: [user("?")], response_format: schemaFormat, max_tokens: 5 });
    expect(finishOf(answer)).toBe("length");
    expect('{"name": "').toContain(textOf(answer).slice(0, 5));
  });

  test("holds n answers, each for itself, and comes with log-probabilities", async () => {
    const sampled = { response_format: schemaFormat, temperature: 2, n: 3, seed: 1, logprobs: true };
    const answer = await server.post(CHAT, { messages: [user("?")], ...sampled, max_tokens: 300 });
    const texts = [0, 1, 2].map((choice) => textOf(answer, choice));
    expect(new Set(texts).size).toBe(3);
    for (const text of texts) expect(new Ajv().validate(PERSON, JSON.parse(text))).toBe(true);
  });

  test("is a field of text in responses", async () => {
    const format = { type: "json_schema", name: "person", schema: PERSON };
    const answer = await server.post(RESPONSES, { input: "Who?", text: { format }, max_output_tokens: 300 });
    expect(answer.body).toMatchObject({ status: "completed", text: { format: { name: "person" } } });
    const [item] = answer.body["output"] as [{ content: [{ text: string }] }];
    expect(new Ajv().validate(PERSON, JSON.parse(item.content[0].text))).toBe(true);
  });

  test("goes on in a session, where each turn is a step", async () => {
    await server.post("/v1/sessions", { id: "form", method: "ccm-concat" });
    for (let turn = 1; turn <= 2; turn++) {
      const answer = await server.post(CHAT, {
        session: "form",
        messages: [user("Who?")],
        response_format: schemaFormat,
        max_tokens: 300,
      });
      expect(new Ajv().validate(PERSON, JSON.parse(textOf(answer)))).toBe(true);
      expect(answer.body).toMatchObject({ usage: { memory: { steps: turn } } });
    }
  });
});

describe("tools in chat", () => {
  const ask = (body: object): ReturnType<TestServer["post"]> =>
    server.post(CHAT, { tools: CHAT_TOOLS, max_tokens: 300, temperature: 1, seed: 3, ...body });

  test("that are required give a call that fits", async () => {
    const answer = await ask({ messages: [user("Go.")], tool_choice: "required", parallel_tool_calls: false });
    const { content, tool_calls: calls = [] } = messageOf(answer);
    expect(finishOf(answer)).toBe("tool_calls");
    expect(content).toBeNull();
    expect(calls).toHaveLength(1);
    for (const { id, type, function: called } of calls) {
      expect(type).toBe("function");
      expect(id).toMatch(/^call_/);
      expectFits(called);
    }
  });

  test("that are named are the one called", async () => {
    const named = { type: "function", function: { name: "stop_now" } };
    const answer = await ask({ messages: [user("Go.")], tool_choice: named, parallel_tool_calls: false });
    expect(messageOf(answer).tool_calls).toMatchObject([{ function: { name: "stop_now", arguments: "{}" } }]);
  });

  test("may be called several times at once, each with an id of its own", async () => {
    const answers = await Promise.all(
      [1, 2, 3, 4].map((seed) => ask({ messages: [user("Go.")], tool_choice: "required", seed, max_tokens: 500 })),
    );
    const counts = answers.map((answer) => messageOf(answer).tool_calls?.length ?? 0);
    expect(Math.max(...counts)).toBeGreaterThan(1);
    for (const answer of answers) {
      const calls = messageOf(answer).tool_calls ?? [];
      expect(new Set(calls.map(({ id }) => id)).size).toBe(calls.length);
      for (const { function: called } of finishOf(answer) === "length" ? calls.slice(0, -1) : calls) expectFits(called);
    }
  });

  test("stream as deltas that add up to the whole call", async () => {
    const body = { messages: [user("Go.")], tool_choice: "required", parallel_tool_calls: false, tools: CHAT_TOOLS };
    const sampled = { ...body, max_tokens: 300, temperature: 1, seed: 3 };
    const whole = await server.post(CHAT, sampled);
    const events = await stream(CHAT, { ...sampled, stream: true });
    const deltas = events
      .slice(0, -1)
      .flatMap(
        ({ data }) => (data as { choices: { delta: Partial<Message>; finish_reason: string | null }[] }).choices,
      );
    const calls = deltas.flatMap(({ delta }) => delta.tool_calls ?? []);
    expect(calls[0]).toMatchObject({ index: 0, type: "function", function: { arguments: "" } });
    expect(calls.slice(1).every((call) => !("id" in call))).toBe(true);
    expect(calls.length).toBeGreaterThan(2);
    const given = calls.map((call) => call.function.arguments).join("");
    expect(given).toBe(messageOf(whole).tool_calls?.[0]?.function.arguments);
    expect(deltas.map(({ delta }) => delta.content ?? "").join("")).toBe("");
    expect(deltas.at(-1)?.finish_reason).toBe("tool_calls");
  });

  test("that need not be called leave the answer free, and tool_choice none keeps it so", async () => {
    const short = { messages: [user("Hm?")], max_tokens: 6, temperature: 0, ignore_eos: true };
    const plain = await server.post(CHAT, short);
    const none = await ask({ ...short, tool_choice: "none" });
    expect(textOf(none)).toBe(textOf(plain));
    const auto = await ask(short);
    expect(finishOf(auto)).toBe("length");
    const { prompt_tokens: told } = auto.body["usage"] as { prompt_tokens: number };
    const { prompt_tokens: untold } = none.body["usage"] as { prompt_tokens: number };
    expect(told - untold).toBeGreaterThan(JSON.stringify(SHIFT.parameters).length);
  });

  test("go round: the call and its result are part of the history that is recognised", async () => {
    const first = [user("Move it.")];
    const forced = { tool_choice: "required", parallel_tool_calls: false };
    const one = await ask({ messages: first, ...forced });
    const called = messageOf(one);
    const result = { role: "tool", tool_call_id: called.tool_calls?.[0]?.id, content: "moved" };
    const second = [...first, called, result];
    const two = await ask({ messages: second, tool_choice: "auto", max_tokens: 4, ignore_eos: true });
    expect(cachedOf(two)).toBeGreaterThan(300);
    const third = [...second, { role: "assistant", content: textOf(two) }, user("Thanks.")];
    const three = await ask({ messages: third, tool_choice: "auto", max_tokens: 4, ignore_eos: true });
    expect(cachedOf(three)).toBeGreaterThan(cachedOf(two));
    // Tools that the memory knows are not told again.
    const { prompt_n: read } = three.body["timings"] as { prompt_n: number };
    expect(read).toBeLessThan(40);
    const other = { ...called, tool_calls: called.tool_calls?.map((call) => ({ ...call, id: "call_other" })) };
    expect(cachedOf(await ask({ messages: [...first, other, result], max_tokens: 4 }))).toBe(0);
  });

  test("go round in a session that survives in the store, with only the new turns sent", async () => {
    await server.post("/v1/sessions", { id: "tools", method: "full" });
    const forced = { session: "tools", tool_choice: "required", parallel_tool_calls: false };
    const one = await ask({ messages: [user("Move it.")], ...forced });
    const id = messageOf(one).tool_calls?.[0]?.id;
    const result = [{ role: "tool", tool_call_id: id, content: "moved" }];
    const two = await ask({ session: "tools", messages: result, max_tokens: 4, ignore_eos: true });
    expect(two.status).toBe(200);
    expect(two.body).toMatchObject({ usage: { memory: { steps: 2 } } });
    const snapshot = await server.app.request("/v1/sessions/tools/snapshot");
    const headers = { "content-type": "application/octet-stream" };
    const bytes = await snapshot.arrayBuffer();
    await server.app.request("/v1/sessions/import?id=moved", { method: "POST", headers, body: bytes });
    const three = await ask({ session: "moved", messages: [user("On.")], max_tokens: 4, ignore_eos: true });
    const { prompt_n: read } = three.body["timings"] as { prompt_n: number };
    expect(read).toBeLessThan(40);
  });
});

describe("tools in responses", () => {
  const body = { tools: RESPONSE_TOOLS, tool_choice: "required", parallel_tool_calls: false, temperature: 1, seed: 3 };

  test("are items of the output, and their results go on from the response", async () => {
    const one = await server.post(RESPONSES, { ...body, input: "Move it.", max_output_tokens: 300 });
    expect(one.body).toMatchObject({ status: "completed", tool_choice: "required", tools: [{ name: "shift" }, {}] });
    const [call, ...others] = one.body["output"] as [
      { type: string; call_id: string; name: string; arguments: string },
    ];
    expect(others).toEqual([]);
    expect(call).toMatchObject({ type: "function_call", status: "completed", id: expect.stringMatching(/^fc_/) });
    expectFits(call);
    const output = { type: "function_call_output", call_id: call.call_id, output: "moved" };
    const free = { tools: RESPONSE_TOOLS, max_output_tokens: 4, ignore_eos: true };
    const two = await server.post(RESPONSES, { ...free, previous_response_id: one.body["id"], input: [output] });
    expect(two.status).toBe(200);
    expect(two.body["output"]).toMatchObject([{ type: "message" }]);
    const resent = [{ role: "user", content: "Move it." }, call, output];
    const three = await server.post(RESPONSES, { ...free, input: resent });
    expect(three.status).toBe(200);
    expect((await server.get(`${RESPONSES}/${String(one.body["id"])}`)).body["output"]).toEqual([call]);
  });

  test("stream as items with arguments in pieces", async () => {
    const events = await stream(RESPONSES, { ...body, input: "Move it.", max_output_tokens: 300, stream: true });
    const names = [...new Set(events.map(({ event }) => event))];
    expect(names).toEqual([
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.function_call_arguments.delta",
      "response.function_call_arguments.done",
      "response.output_item.done",
      "response.completed",
    ]);
    const data = events.map((event) => event.data as { delta?: string; arguments?: string; sequence_number: number });
    expect(data.map(({ sequence_number: number }) => number)).toEqual([...data.keys()]);
    const done = data.find((_, index) => events[index]?.event === "response.function_call_arguments.done");
    expect(data.map(({ delta = "" }) => delta).join("")).toBe(done?.arguments);
  });
});

describe("what cannot be held to is refused before anything is read", () => {
  const format = (schema: object): object => ({ response_format: { type: "json_schema", json_schema: { schema } } });
  const tool = (described: object): object => ({ tools: [{ type: "function", function: described }] });

  test.each<[string, object, { code: string; param: string }]>([
    ["a pattern", format({ type: "string", pattern: "a" }), { code: "unsupported_schema", param: "response_format" }],
    ["an endless schema", format({ $ref: "#" }), { code: "unsupported_schema", param: "response_format" }],
    [
      "a format without a schema",
      { response_format: { type: "json_schema" } },
      { code: "invalid_value", param: "response_format" },
    ],
    [
      "an unknown format",
      { response_format: { type: "xml" } },
      { code: "unsupported_parameter", param: "response_format" },
    ],
    ["a custom tool", { tools: [{ type: "custom" }] }, { code: "unsupported_parameter", param: "tools.0.type" }],
    ["functions", { functions: [{ name: "f" }] }, { code: "unsupported_parameter", param: "functions" }],
    ["a strange name", tool({ name: "a b" }), { code: "invalid_value", param: "tools.0.function.name" }],
    [
      "a strict schema",
      tool({ name: "f", strict: true, parameters: { type: "object", minProperties: 1 } }),
      { code: "unsupported_schema", param: "tools" },
    ],
    ["two tools of a name", { tools: [...CHAT_TOOLS, ...CHAT_TOOLS] }, { code: "invalid_value", param: "tool_choice" }],
    [
      "a choice of no tool",
      { tools: CHAT_TOOLS, tool_choice: { type: "function", function: { name: "x" } } },
      { code: "invalid_value", param: "tool_choice" },
    ],
    ["a required call of nothing", { tool_choice: "required" }, { code: "invalid_value", param: "tool_choice" }],
    [
      "an unknown choice",
      { tools: CHAT_TOOLS, tool_choice: "often" },
      { code: "unsupported_parameter", param: "tool_choice" },
    ],
    [
      "a result of no call",
      { messages: [{ role: "tool", content: "x" }] },
      { code: "invalid_value", param: "messages.0.tool_call_id" },
    ],
    [
      "a user's call",
      { messages: [{ role: "user", tool_calls: [{ id: "1", function: { name: "f", arguments: "{}" } }] }] },
      { code: "invalid_value", param: "messages.0.tool_calls" },
    ],
  ])("%s", async (_, fields, error) => {
    const answer = await server.post(CHAT, { messages: [user("?")], ...fields });
    expect(answer.status).toBe(400);
    expect(answer.body.error).toMatchObject(error);
  });

  test("but a schema that need not be strict is held to as far as it can be", async () => {
    const described = {
      name: "f",
      parameters: { type: "object", properties: { at: { type: "string", format: "date" } } },
    };
    const forced = { tool_choice: "required", parallel_tool_calls: false, max_tokens: 200, temperature: 1, seed: 2 };
    const answer = await server.post(CHAT, { messages: [user("?")], ...tool(described), ...forced });
    expect(messageOf(answer).tool_calls?.[0]?.function.arguments).toMatch(/^\{/);
  });
});
