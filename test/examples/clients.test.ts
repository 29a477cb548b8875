/** @file The example clients against a real server: what they tell it in one run, it knows in the next, after a restart. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createApp } from "#precis/server/app.js";
import { listen, type Listening } from "#precis/server/listen.js";
import { FileStore } from "#precis/stores/file-store.js";
import type { Fixture } from "../conformance/fixtures.js";
import { servedTiny, tinyFixture } from "../server/fixture.js";

let fixture: Fixture;
let folder: string;
beforeAll(async () => {
  fixture = await tinyFixture();
  folder = mkdtempSync(join(tmpdir(), "precis-clients-"));
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** A server that keeps its sessions in a folder. */
async function serve(name: string): Promise<Listening & AsyncDisposable> {
  const store = new FileStore(join(folder, name));
  const app = createApp([servedTiny(fixture)], { store, keys: [{ key: "sk-test", namespace: "test" }] });
  const server = await listen(app, { host: "127.0.0.1", port: 0 });
  const stop = async (): Promise<void> => {
    await server.close();
    await store.close();
  };
  return { ...server, [Symbol.asyncDispose]: stop };
}

/** What an example prints. */
async function run({ url }: Listening, program: string, ...args: string[]): Promise<string> {
  const file = fileURLToPath(new URL(`../../examples/clients/${program}`, import.meta.url));
  const env = { PATH: process.env.PATH, PRECIS_URL: `${url}/v1`, PRECIS_API_KEY: "sk-test", PRECIS_MODEL: "tiny" };
  const { stdout } = await promisify(execFile)(process.execPath, [file, ...args], { env });
  return stdout;
}

const SAID = "My sister Ada lives in Porto.";
const ASKED = "Where does Ada live?";

/** What the server answers to both turns, one after the other and without a client of anybody's. */
async function answerOf({ url }: Listening, session: string, turns: readonly string[]): Promise<string> {
  const post = async (path: string, body: object): Promise<unknown> => {
    const headers = { authorization: "Bearer sk-test", "content-type": "application/json" };
    return (await fetch(`${url}/v1${path}`, { method: "POST", headers, body: JSON.stringify(body) })).json();
  };
  await post("/sessions", { id: session });
  let answer: unknown;
  for (const content of turns) {
    answer = await post("/chat/completions", { session, messages: [{ role: "user", content }], max_tokens: 60 });
  }
  return (answer as { choices: { message: { content: string } }[] }).choices[0]?.message.content ?? "";
}

describe.each(["openai.mjs", "ai-sdk.mjs", "langchain.mjs"])("%s", (program) => {
  test("goes on with its session after the server was started again", async () => {
    {
      await using first = await serve(program);
      expect(await run(first, program, "alice", SAID)).toMatch(/\nmemory: 1 steps, .* a full cache: \d+\n$/);
    }
    await using second = await serve(program);
    const answer = await run(second, program, "alice", ASKED);
    const wanted = await answerOf(second, "straight", [SAID, ASKED]);
    expect(answer).toMatch(/\nmemory: 2 steps, .* a full cache: \d+\n$/);
    expect(answer.split("\nmemory:")[0]).toBe(wanted);
    expect(await answerOf(second, "stranger", [ASKED])).not.toBe(wanted);
  });
});

test("openai-responses.mjs goes on from a response after the server was started again", async () => {
  const idIn = (text: string): string => / (resp_\w+)\n$/.exec(text)?.[1] ?? "";
  let id: string;
  {
    await using first = await serve("responses");
    id = idIn(await run(first, "openai-responses.mjs", SAID));
    expect(id).not.toBe("");
  }
  await using second = await serve("responses");
  const answer = await run(second, "openai-responses.mjs", ASKED, id);
  const [, cached, all] = /(\d+) of (\d+) tokens were in memory already/.exec(answer) ?? [];
  expect(Number(cached)).toBeGreaterThan(10);
  expect(Number(cached)).toBeLessThan(Number(all));
  expect(idIn(answer)).not.toBe(id);
});

test("say how they are used", async () => {
  await using server = await serve("usage");
  await expect(run(server, "openai.mjs")).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/SESSION TEXT/),
  });
});
