/** @file The official client against a real port: formats, calls of functions, and their results. */
import { OpenAI } from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApp } from "#precis/server/app.js";
import { listen, type Listening } from "#precis/server/listen.js";
import type { Fixture } from "../conformance/fixtures.js";
import { servedTiny, tinyFixture } from "./fixture.js";

let fixture: Fixture;
let server: Listening;
let client: OpenAI;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = await listen(createApp([servedTiny(fixture)]), { host: "127.0.0.1", port: 0 });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
});
afterAll(async () => {
  await server.close();
  await fixture[Symbol.asyncDispose]();
});

const UNITS = ["mm", "inch"];
const parameters = {
  type: "object",
  properties: { by: { type: "integer", minimum: 0, maximum: 99 }, unit: { type: "string", enum: UNITS } },
  required: ["by", "unit"],
  additionalProperties: false,
};
const described = { name: "shift", description: "Moves it.", parameters, strict: true };
const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "Move it." }];
const chat = {
  model: "tiny",
  messages,
  tools: [{ type: "function" as const, function: described }],
  tool_choice: "required" as const,
  parallel_tool_calls: false,
  max_completion_tokens: 200,
};

function expectShift(given: string): void {
  const value = JSON.parse(given) as { by: number; unit: string };
  expect(Object.keys(value)).toEqual(["by", "unit"]);
  expect(UNITS).toContain(value.unit);
  expect(value.by).toBeGreaterThanOrEqual(0);
  expect(value.by).toBeLessThan(100);
}

describe("chat completions of the openai package", () => {
  test("parse an answer with a schema", async () => {
    const schema = { name: "shift", strict: true, schema: parameters };
    const body = { model: "tiny", messages, max_completion_tokens: 200 };
    const answer = await client.chat.completions.parse({
      ...body,
      response_format: { type: "json_schema", json_schema: schema },
    });
    expectShift(answer.choices[0]?.message.content ?? "");
  });

  test("say that an answer was cut off", async () => {
    const schema = { name: "shift", strict: true, schema: parameters };
    const stream = client.chat.completions.stream({
      model: "tiny",
      messages,
      max_completion_tokens: 3,
      response_format: { type: "json_schema", json_schema: schema },
    });
    const [choice] = (await stream.finalChatCompletion()).choices;
    expect(choice).toMatchObject({ finish_reason: "length", message: { content: '{"b', parsed: null } });
  });

  test("call a function and answer with its result", async () => {
    const { choices } = await client.chat.completions.create(chat);
    const [choice] = choices as [OpenAI.ChatCompletion.Choice];
    expect(choice.finish_reason).toBe("tool_calls");
    const [call] = choice.message.tool_calls as [OpenAI.ChatCompletionMessageFunctionToolCall];
    expectShift(call.function.arguments);
    const result = { role: "tool" as const, tool_call_id: call.id, content: "moved" };
    const next = await client.chat.completions.create({
      ...chat,
      messages: [...messages, choice.message, result],
      tool_choice: "auto",
      max_completion_tokens: 5,
    });
    expect(next.choices[0]?.message.role).toBe("assistant");
    expect(next.usage?.prompt_tokens_details?.cached_tokens).toBeGreaterThan(100);
  });

  test("put a streamed call together", async () => {
    const stream = client.chat.completions.stream(chat);
    const pieces: string[] = [];
    stream.on("tool_calls.function.arguments.delta", ({ arguments_delta: delta }) => pieces.push(delta));
    const final = await stream.finalChatCompletion();
    const [call] = final.choices[0]?.message.tool_calls ?? [];
    if (call?.type !== "function") throw new Error("There is no call of a function");
    expect(call.id).toMatch(/^call_/);
    expectShift(call.function.arguments);
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.join("")).toBe(call.function.arguments);
    expect(final.choices[0]?.finish_reason).toBe("tool_calls");
  });

  test("run functions by themselves until there is an answer", async () => {
    const heard: unknown[] = [];
    const runner = client.chat.completions.runTools(
      {
        ...chat,
        tool_choice: { type: "function", function: { name: "shift" } },
        tools: [
          {
            type: "function",
            function: {
              ...described,
              parse: (text: string): { by: number } => JSON.parse(text) as { by: number },
              function: (given: { by: number }): string => {
                heard.push(given.by);
                return "moved";
              },
            },
          },
        ],
      },
      { maxChatCompletions: 2 },
    );
    await runner.done();
    expect(heard).toEqual([expect.any(Number)]);
  });
});

describe("responses of the openai package", () => {
  const body = {
    model: "tiny",
    tools: [{ type: "function" as const, ...described }],
    tool_choice: "required" as const,
    parallel_tool_calls: false,
    max_output_tokens: 200,
  };

  test("call a function and go on from its result", async () => {
    const first = await client.responses.create({ ...body, input: "Move it." });
    const [call] = first.output;
    if (call?.type !== "function_call") throw new Error("There is no call");
    expectShift(call.arguments);
    const second = await client.responses.create({
      ...body,
      tool_choice: "auto",
      max_output_tokens: 5,
      previous_response_id: first.id,
      input: [{ type: "function_call_output", call_id: call.call_id, output: "moved" }],
    });
    expect(second.output[0]?.type).toBe("message");
    expect(second.usage?.input_tokens_details.cached_tokens).toBeGreaterThan(100);
  });

  test("put a streamed call together", async () => {
    const stream = client.responses.stream({ ...body, input: "Move it." });
    let given = "";
    for await (const event of stream) if (event.type === "response.function_call_arguments.delta") given += event.delta;
    const [call] = (await stream.finalResponse()).output;
    if (call?.type !== "function_call") throw new Error("There is no call");
    expectShift(call.arguments);
    expect(given).toBe(call.arguments);
  });

  test("parse an answer with a schema", async () => {
    const format = { type: "json_schema" as const, name: "shift", strict: true, schema: parameters };
    const answer = await client.responses.create({
      model: "tiny",
      input: "?",
      text: { format },
      max_output_tokens: 200,
    });
    expectShift(answer.output_text);
  });
});
