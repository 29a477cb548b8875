/** @file Chat over HTTP: what clients get, and what is not read twice. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Fixture } from "../conformance/fixtures.js";
import { readEvents, SHORT, testServer, textOf, tinyFixture, user, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = testServer(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

const CHAT = "/v1/chat/completions";
const ask = (body: object): ReturnType<TestServer["post"]> => server.post(CHAT, { ...SHORT, ...body });

describe("a chat completion", () => {
  test("is what the library answers, with usage, memory and timings", async () => {
    const answer = await ask({ messages: [user("Who?")] });
    const memory = await fixture.memory();
    const wanted = await memory.answer([{ role: "user", content: "Who?" }], { maxTokens: 5, ignoreEos: true });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({
      object: "chat.completion",
      model: "tiny",
      choices: [{ index: 0, message: { role: "assistant", content: wanted.text }, finish_reason: "length" }],
      usage: {
        prompt_tokens: wanted.timings.promptTokens,
        completion_tokens: 5,
        total_tokens: wanted.timings.promptTokens + 5,
        prompt_tokens_details: { cached_tokens: 0 },
        memory: { method: "full", tokens_seen: wanted.stats.tokensSeen, slots: wanted.stats.slots },
      },
      timings: { prompt_n: wanted.timings.promptTokens, predicted_n: 5, cache_n: 0 },
    });
  });

  test("streams the same text, ends with a reason, and gives usage if asked", async () => {
    const body = { ...SHORT, messages: [user("Wo?")], stream_options: { include_usage: true } };
    const whole = await server.post(CHAT, body);
    const response = await server.app.request(CHAT, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true }),
    });
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    const events = await readEvents(response);
    expect(events.at(-1)?.data).toBe("[DONE]");
    const chunks = events.slice(0, -1).map(({ data }) => data as Record<string, never>);
    const choices = chunks.flatMap(
      (chunk) => chunk["choices"] as { delta: { content?: string }; finish_reason: unknown }[],
    );
    expect(choices.map(({ delta }) => delta.content ?? "").join("")).toBe(textOf(whole));
    expect(choices.at(-1)?.finish_reason).toBe("length");
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 5 } });
    expect(new Set(chunks.map((chunk) => chunk["id"])).size).toBe(1);
  });

  test("is repeatable by its seed", async () => {
    const sampled = { messages: [user("Say")], temperature: 2, seed: 7 };
    expect(textOf(await ask(sampled))).toBe(textOf(await ask(sampled)));
    expect(textOf(await ask({ ...sampled, seed: 8 }))).not.toBe(textOf(await ask(sampled)));
  });

  test("ends before a stop text", async () => {
    const free = textOf(await ask({ messages: [user("Stop")], max_completion_tokens: 12 }));
    const stop = free.slice(3, 5);
    const cut = await ask({ messages: [user("Stop")], max_completion_tokens: 12, stop });
    expect(textOf(cut)).toBe(free.slice(0, free.indexOf(stop)));
    expect(cut.body).toMatchObject({ choices: [{ finish_reason: "stop" }] });
  });

  test("gives n answers that differ by their seeds, and any of them can be continued", async () => {
    const messages = [user("Several")];
    const answer = await ask({ messages, n: 3, temperature: 2, seed: 1 });
    const texts = [0, 1, 2].map((choice) => textOf(answer, choice));
    expect(new Set(texts).size).toBe(3);
    expect(answer.body).toMatchObject({ usage: { completion_tokens: 15 } });
    for (const content of texts) {
      const next = await ask({ messages: [...messages, { role: "assistant", content }, user("More")] });
      const { usage } = next.body as { usage: { prompt_tokens_details: { cached_tokens: number } } };
      expect(usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(10);
    }
  });

  test("gives as many answers as it may without a warning of leaking listeners", async () => {
    const warnings: string[] = [];
    const collect = ({ name }: Error): unknown => warnings.push(name);
    process.on("warning", collect);
    try {
      const answer = await ask({ messages: [user("Many")], n: 16 });
      expect(answer.body["choices"]).toHaveLength(16);
    } finally {
      process.off("warning", collect);
    }
    expect(warnings).toEqual([]);
  });

  test("gives log-probabilities that sum to less than one", async () => {
    const answer = await ask({ messages: [user("Sure?")], logprobs: true, top_logprobs: 3 });
    const [choice] = answer.body["choices"] as [
      { logprobs: { content: { token: string; logprob: number; top_logprobs: { logprob: number }[] }[] } },
    ];
    expect(choice.logprobs.content).toHaveLength(5);
    for (const { logprob, top_logprobs: top } of choice.logprobs.content) {
      expect(top).toHaveLength(3);
      expect(top[0]?.logprob).toBe(logprob);
      expect(top.reduce((sum, token) => sum + Math.exp(token.logprob), 0)).toBeLessThan(1);
    }
  });

  test("takes parts of text and the role developer", async () => {
    const parts = [
      { role: "developer", content: "Brief." },
      { role: "user", content: [{ type: "text", text: "Hi" }] },
    ];
    const plain = [{ role: "system", content: "Brief." }, user("Hi")];
    expect(textOf(await ask({ messages: parts }))).toBe(textOf(await ask({ messages: plain })));
  });
});

describe("a conversation sent in full", () => {
  const usageOf = (body: object): { prompt: number; cached: number; seen: number } => {
    const { usage } = body as {
      usage: {
        prompt_tokens: number;
        prompt_tokens_details: { cached_tokens: number };
        memory: { tokens_seen: number };
      };
    };
    return {
      prompt: usage.prompt_tokens,
      cached: usage.prompt_tokens_details.cached_tokens,
      seen: usage.memory.tokens_seen,
    };
  };

  test("is read only as far as it is new, and answered as its memory goes on", async () => {
    const first = [{ role: "system", content: "You count." }, user("One")];
    const one = await ask({ messages: first });
    const seen = usageOf(one.body).seen;
    const second = [...first, { role: "assistant", content: textOf(one) }, user("Two")];
    const two = await ask({ messages: second });
    expect(usageOf(two.body)).toMatchObject({ cached: seen });
    expect((two.body as { timings: { prompt_n: number } }).timings.prompt_n).toBeLessThan(12);
    const memory = await fixture.memory();
    await memory.answer(first, { maxTokens: 5, ignoreEos: true });
    const wanted = await memory.answer([user("Two")], { maxTokens: 5, ignoreEos: true });
    expect(textOf(two)).toBe(wanted.text);
  });

  test("of another key, or with another memory, shares nothing", async () => {
    const keyed = testServer(fixture, {
      keys: [
        { key: "key-a", namespace: "a" },
        { key: "key-b", namespace: "b" },
      ],
    });
    const as = (key: string, body: object): ReturnType<TestServer["post"]> =>
      keyed.post(CHAT, { ...SHORT, ...body }, { authorization: `Bearer ${key}` });
    const one = await as("key-a", { messages: [user("Secret")] });
    const messages = [user("Secret"), { role: "assistant", content: textOf(one) }, user("And?")];
    expect(usageOf((await as("key-b", { messages })).body).cached).toBe(0);
    expect(usageOf((await as("key-a", { messages, memory: { method: "streaming" } })).body).cached).toBe(0);
    expect(usageOf((await as("key-a", { messages })).body).cached).toBeGreaterThan(0);
  });

  test("with one word changed is not taken for the same", async () => {
    const one = await ask({ messages: [user("Alpha")] });
    const answer = { role: "assistant", content: textOf(one) };
    expect(usageOf((await ask({ messages: [user("Alphb"), answer, user("?")] })).body).cached).toBe(0);
  });

  test("can be answered again from an earlier turn", async () => {
    const messages = [user("Again")];
    const one = await ask({ messages });
    const two = [...messages, { role: "assistant", content: textOf(one) }, user("left")];
    const left = await ask({ messages: two });
    const right = await ask({ messages: [...two.slice(0, 2), user("right")] });
    expect(usageOf(right.body).cached).toBe(usageOf(left.body).cached);
    const third = [...two, { role: "assistant", content: textOf(left) }, user("on")];
    expect(usageOf((await ask({ messages: third })).body).cached).toBe(usageOf(left.body).seen);
  });

  test("uses the memory that the request names", async () => {
    const memory = { method: "ccm-concat" };
    const one = await ask({ messages: [user("A long line to compress.")], memory });
    expect(one.body).toMatchObject({ usage: { memory: { method: "ccm-concat", steps: 1, slots: 2 } } });
    const messages = [user("A long line to compress."), { role: "assistant", content: textOf(one) }, user("Two")];
    const two = await ask({ messages, memory });
    expect(two.body).toMatchObject({ usage: { memory: { steps: 2, slots: 4 } } });
    expect(usageOf(two.body).cached).toBe(usageOf(one.body).seen);
  });

  test("sent twice at once is answered twice alike", async () => {
    const one = await ask({ messages: [user("Twins")] });
    const messages = [user("Twins"), { role: "assistant", content: textOf(one) }, user("?")];
    const [a, b] = await Promise.all([ask({ messages }), ask({ messages })]);
    expect(a.status).toBe(200);
    expect(textOf(a)).toBe(textOf(b));
    expect(usageOf(a.body)).toEqual(usageOf(b.body));
  });

  test("that fills the model's context ends with length rather than an error", async () => {
    const content = "x".repeat(1990);
    const answer = await ask({ messages: [user(content)], max_completion_tokens: 500 });
    expect(answer.body).toMatchObject({ choices: [{ finish_reason: "length" }] });
    const over = await ask({ messages: [user("x".repeat(2100))] });
    expect(over.status).toBe(400);
    expect(over.body.error?.code).toBe("context_length_exceeded");
  });
});

describe("what is not built is refused", () => {
  test.each([
    ["functions", { functions: [{ name: "f" }] }],
    ["presence_penalty", { presence_penalty: 1 }],
    ["logit_bias", { logit_bias: { "5": 1 } }],
    [
      "messages.0.content.0",
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
    ],
  ])("%s", async (param, fields) => {
    const answer = await ask({ messages: [user("?")], ...fields });
    expect(answer.status).toBe(400);
    expect(answer.body.error).toMatchObject({ code: "unsupported_parameter", param, type: "invalid_request_error" });
    expect(answer.body.error?.message).toMatch(/not supported yet\. \w/);
  });
});
