/** @file The AI SDK through our provider, against a real server on a real port. */
import { setTimeout as sleep } from "node:timers/promises";
import {
  APICallError,
  embedMany,
  generateText,
  InvalidArgumentError,
  streamText,
  type JSONValue,
  type ModelMessage,
} from "ai";
import { createPrecis, type PrecisMetadata, type PrecisProvider } from "precis-ai-sdk";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApp } from "#precis/server/app.js";
import { listen, type Listening } from "#precis/server/listen.js";
import { MemoryStore } from "#precis/stores/memory-store.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { servedTiny, tinyFixture } from "../../server/fixture.js";

interface SentBody {
  messages: { role: string; content: string }[];
  [field: string]: unknown;
}

let fixture: Fixture;
let server: Listening;
let precis: PrecisProvider;
/** Bodies of chat requests, in order. */
let sent: SentBody[];
const store = new MemoryStore();

const start = (): Promise<Listening> =>
  listen(createApp([servedTiny(fixture)], { store, keys: [{ key: "sk-test", namespace: "test" }] }), {
    host: "127.0.0.1",
    port: 0,
  });
const providerOf = ({ url }: Listening, createSessions = true): PrecisProvider =>
  createPrecis({
    baseURL: `${url}/v1`,
    apiKey: "sk-test",
    createSessions,
    fetch: (input, init) => {
      if (String(input as string).endsWith("/chat/completions"))
        sent.push(JSON.parse(init?.body as string) as SentBody);
      return fetch(input, init);
    },
  });

beforeAll(async () => {
  fixture = await tinyFixture();
  sent = [];
  server = await start();
  precis = providerOf(server);
});
afterAll(async () => {
  await server.close();
  await fixture[Symbol.asyncDispose]();
});

const short = { maxOutputTokens: 5, maxRetries: 0 } as const;
const session = (name: string, more: Record<string, JSONValue> = {}): { precis: Record<string, JSONValue> } => ({
  precis: { session: name, ignoreEos: true, ...more },
});
const metadataOf = (from: { providerMetadata: unknown }): PrecisMetadata =>
  (from.providerMetadata as { precis: PrecisMetadata }).precis;

describe("a session", () => {
  test("is made by its first call, gets new turns only from then on, and remembers as the whole conversation does", async () => {
    const system = "Be brief.";
    const messages: ModelMessage[] = [{ role: "user", content: "My cat is Ada." }];
    const first = await generateText({
      ...short,
      model: precis("tiny"),
      system,
      messages,
      providerOptions: session("alice"),
    });
    expect(sent.at(-1)?.messages.map(({ role }) => role)).toEqual(["system", "user"]);
    messages.push({ role: "assistant", content: first.text }, { role: "user", content: "Who is Ada?" });
    const second = await generateText({
      ...short,
      model: precis("tiny"),
      system,
      messages,
      providerOptions: session("alice"),
    });
    expect(sent.at(-1)?.messages).toEqual([{ role: "user", content: "Who is Ada?" }]);
    expect(metadataOf(second).session).toBe("alice");
    expect(metadataOf(second).memory).toMatchObject({ method: "full", steps: 2 });

    const whole = await generateText({
      ...short,
      model: precis("tiny"),
      system,
      messages,
      providerOptions: { precis: { ignoreEos: true } },
    });
    expect(second.text).toBe(whole.text);
    expect(second.usage.inputTokens).toBeLessThan(whole.usage.inputTokens as number);
  });

  test("gets the memory that its first call asks for", async () => {
    const memory = { method: "ccm-concat", adapter: "ccm" };
    const call = { ...short, model: precis("tiny"), prompt: "Hello", providerOptions: session("small", { memory }) };
    const { providerMetadata } = await generateText(call);
    const { memory: held } = metadataOf({ providerMetadata });
    expect(held).toMatchObject({ method: "ccm-concat", steps: 1 });
    expect(held?.bytes).toBeLessThan(held?.fullCacheBytes as number);
    expect((await precis.sessions.get("small")).method).toBe("ccm-concat");
  });

  test("that two calls ask for at the same time is made once, and both are answered", async () => {
    const call = { ...short, model: precis("tiny"), prompt: "Hello", providerOptions: session("both") };
    const answers = await Promise.all([generateText(call), generateText(call)]);
    expect(answers.map(({ text }) => text.length > 0)).toEqual([true, true]);
    expect((await precis.sessions.get("both")).step).toBe(2);
  });

  test("goes on after the server was started again", async () => {
    const options = { ...short, providerOptions: session("lasting") };
    await generateText({ ...options, model: precis("tiny"), prompt: "One" });
    const wanted = await precis.sessions.fork("lasting", { id: "copy" });
    expect(wanted.step).toBe(1);
    const straight = await generateText({
      ...options,
      model: precis("tiny"),
      prompt: "Two",
      providerOptions: session("copy"),
    });
    const again = await start();
    const restarted = providerOf(again);
    const resumed = await generateText({ ...options, model: restarted("tiny"), prompt: "Two" });
    expect(resumed.text).toBe(straight.text);
    expect(metadataOf(resumed).memory?.steps).toBe(2);
    await again.close();
  });

  test("is appended to, turned back and deleted by name", async () => {
    await precis.sessions.create({ id: "named", metadata: { owner: "me" } });
    const appended = await precis.sessions.append("named", [{ role: "user", content: "A fact." }]);
    expect(appended).toMatchObject({ step: 1, metadata: { owner: "me" } });
    await precis.sessions.append("named", [{ role: "user", content: "Another." }]);
    expect((await precis.sessions.rewind("named", 1)).step).toBe(1);
    await precis.sessions.delete("named");
    await expect(precis.sessions.get("named")).rejects.toMatchObject({ statusCode: 404 });
  });
});

describe("a stream", () => {
  test("says what a whole answer says, with memory and timings at its end", async () => {
    const call = { ...short, model: precis("tiny"), prompt: "Count" };
    const whole = await generateText({ ...call, providerOptions: session("whole") });
    const stream = streamText({ ...call, providerOptions: session("streamed") });
    const pieces: string[] = [];
    for await (const piece of stream.textStream) pieces.push(piece);
    expect(pieces.join("")).toBe(whole.text);
    expect(await stream.finishReason).toBe("length");
    const metadata = (await stream.providerMetadata) as unknown as { precis: PrecisMetadata };
    expect(metadata.precis.memory).toEqual(metadataOf(whole).memory);
    expect(metadata.precis.session).toBe("streamed");
    expect(metadata.precis.timings?.["predicted_n"]).toBe(5);
    expect((await stream.usage).outputTokens).toBe(5);
  });

  test("that is aborted stops the work and leaves the session as it was", async () => {
    await precis.sessions.create({ id: "left" });
    const leave = new AbortController();
    const stream = streamText({
      model: precis("tiny"),
      prompt: "Go on",
      maxOutputTokens: 1800,
      abortSignal: leave.signal,
      providerOptions: session("left"),
    });
    let isAborted = false;
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") leave.abort();
      if (part.type === "abort") isAborted = true;
    }
    expect(isAborted).toBe(true);
    await sleep(50);
    expect((await precis.sessions.get("left")).step).toBe(0);
  });

  test("that the server gives up ends with an APICallError", async () => {
    const own = await start();
    const stream = streamText({
      model: providerOf(own)("tiny"),
      prompt: "Go on",
      maxOutputTokens: 1800,
      maxRetries: 0,
      providerOptions: { precis: { ignoreEos: true } },
      onError: () => undefined,
    });
    let closing: Promise<void> | undefined;
    let failure: unknown;
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") closing ??= own.close(0);
      if (part.type === "error") failure = part.error;
    }
    await closing;
    expect(APICallError.isInstance(failure)).toBe(true);
    expect(failure).toMatchObject({ message: expect.stringMatching(/shutting down/), isRetryable: false });
  });
});

describe("settings", () => {
  test("reach the server by its names, and a seed repeats an answer", async () => {
    const call = {
      ...short,
      model: precis("tiny"),
      prompt: "Dice",
      temperature: 1.5,
      topK: 20,
      topP: 0.9,
      providerOptions: { precis: { minP: 0.01, repetitionPenalty: 1.1, ignoreEos: true } },
    };
    const [one, same, other] = [
      await generateText({ ...call, seed: 7 }),
      await generateText({ ...call, seed: 7 }),
      await generateText({ ...call, seed: 8 }),
    ];
    expect(same.text).toBe(one.text);
    expect(other.text).not.toBe(one.text);
    expect(one.warnings).toEqual([]);
    expect(sent.at(-1)).toMatchObject({
      model: "tiny",
      max_tokens: 5,
      top_k: 20,
      top_p: 0.9,
      min_p: 0.01,
      repetition_penalty: 1.1,
      ignore_eos: true,
      seed: 8,
    });
  });

  test("stop sequences end the answer", async () => {
    const call = {
      model: precis("tiny"),
      prompt: "Stop",
      maxOutputTokens: 40,
      providerOptions: { precis: { ignoreEos: true } },
    };
    const { text } = await generateText(call);
    const stop = text.slice(3, 5);
    const stopped = await generateText({ ...call, stopSequences: [stop] });
    expect(stopped.finishReason).toBe("stop");
    expect(stopped.text).toBe(text.slice(0, text.indexOf(stop)));
  });

  test("that we do not know are refused before anything is sent", async () => {
    const before = sent.length;
    const wrong = generateText({
      ...short,
      model: precis("tiny"),
      prompt: "x",
      providerOptions: { precis: { sesion: "a" } },
    });
    await expect(wrong).rejects.toSatisfy((error) => InvalidArgumentError.isInstance(error));
    expect(sent).toHaveLength(before);
  });
});

describe("failures are APICallErrors", () => {
  test.each([
    ["an unknown model", () => precis("other"), {}, 404, "model_not_found"],
    [
      "a session that may not be made",
      () => providerOf(server, false)("tiny"),
      session("nobody"),
      404,
      "session_not_found",
    ],
    [
      "a wrong key",
      () => createPrecis({ baseURL: `${server.url}/v1`, apiKey: "sk-wrong" })("tiny"),
      {},
      401,
      "invalid_api_key",
    ],
    [
      "a method that there is not",
      () => precis("tiny"),
      session("odd", { memory: { method: "odd" } }),
      400,
      "method_unknown",
    ],
  ])("%s", async (_name, model, providerOptions, statusCode, code) => {
    const error: unknown = await generateText({ ...short, model: model(), prompt: "x", providerOptions }).catch(
      (reason: unknown) => reason,
    );
    expect(APICallError.isInstance(error)).toBe(true);
    expect(error).toMatchObject({ statusCode, isRetryable: false, data: { error: { code } } });
  });

  test("a server that is not there can be tried again", async () => {
    const nobody = createPrecis({ baseURL: "http://127.0.0.1:1/v1" });
    const call = generateText({ ...short, model: nobody("tiny"), prompt: "x" });
    await expect(call).rejects.toMatchObject({ isRetryable: true, url: "http://127.0.0.1:1/v1/chat/completions" });
  });
});

test("texts are embedded", async () => {
  const { embeddings } = await embedMany({ model: precis.embeddingModel("tiny"), values: ["a", "b"] });
  expect(embeddings).toHaveLength(2);
  expect(Math.hypot(...(embeddings[0] as number[]))).toBeCloseTo(1, 4);
});
