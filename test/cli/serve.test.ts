/** @file `precis serve` as people start it: it says where it is, keeps sessions over restarts and crashes, and stops cleanly. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { writeRandomModel } from "../reference/random-model.js";
import { credentials, S3TestServer } from "../stores/s3-server.js";
import { postgresProgram, startPostgres } from "../stores/servers.js";
import { precis, start, testFolder, type Running } from "./precis.js";

const folder = testFolder();
beforeAll(() => {
  writeRandomModel(folder("tiny"), { layers: 2, hiddenSize: 32, seed: 3 });
});

interface Server extends Running {
  url: string;
  call: (path: string, body?: unknown, headers?: Record<string, string>) => Promise<Record<string, never>>;
}

/** Starts a server on a free port and waits until it listens. */
async function serve(args: readonly string[], env: Record<string, string> = {}): Promise<Server> {
  const base = ["serve", "--device", "cpu", "--threads", "1", "--model", folder("tiny"), "--port", "0", "--json"];
  const running = start([...base, ...args], env);
  let output = "";
  running.child.stdout?.on("data", (data: Buffer) => (output += data.toString()));
  await running.seen(/"event":"listening".*\n/);
  const { url } = JSON.parse(output.split("\n")[0] as string) as { url: string };
  const call: Server["call"] = async (path, body, headers = {}) => {
    const response = await fetch(`${url}${path}`, {
      headers: { "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
    });
    return (await response.json()) as Record<string, never>;
  };
  return { ...running, url, call };
}

const turn = (content: string): object => ({
  session: "alice",
  messages: [{ role: "user", content }],
  max_tokens: 5,
  ignore_eos: true,
});
const answerOf = (body: Record<string, never>): unknown =>
  (body["choices"] as { message: { content: string } }[])[0]?.message.content;
const CHAT = "/v1/chat/completions";

describe("sessions", () => {
  test("are there again after Ctrl-C and after a crash, and go on as if nothing had happened", async () => {
    const store = ["--method", "streaming", "--set", "window=64", "--store", folder("sessions")];
    const whole = await serve(["--method", "streaming", "--set", "window=64", "--store", "none"]);
    const wanted: unknown[] = [];
    await whole.call("/v1/sessions", { id: "alice" });
    for (const content of ["One", "Two", "Three"]) wanted.push(answerOf(await whole.call(CHAT, turn(content))));
    whole.child.kill("SIGTERM");
    expect((await whole.finished).code).toBe(0);

    const first = await serve(store);
    await first.call("/v1/sessions", { id: "alice" });
    expect(answerOf(await first.call(CHAT, turn("One")))).toBe(wanted[0]);
    first.child.kill("SIGINT");
    const { code, stdout, stderr } = await first.finished;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const events = stdout
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { event: string }).event);
    expect(events).toEqual(["listening", "request", "request", "stopping", "stopped"]);

    const second = await serve(store);
    expect(await second.call("/v1/sessions/alice")).toMatchObject({ step: 1, resident: false });
    expect(answerOf(await second.call(CHAT, turn("Two")))).toBe(wanted[1]);
    second.child.kill("SIGKILL");
    await second.finished;

    const third = await serve(store);
    expect(answerOf(await third.call(CHAT, turn("Three")))).toBe(wanted[2]);
    third.child.kill("SIGINT");
    await third.finished;
  });

  test.for(["lmdb", "s3", "postgres"])("live in %s just as well, in little space", async (kind, { skip }) => {
    if (kind === "postgres" && postgresProgram === undefined) return skip("postgres is not installed");
    const bucket = await new S3TestServer(["bucket"]).start();
    const postgres = kind === "postgres" ? await startPostgres() : undefined;
    const addresses: Readonly<Record<string, string>> = {
      lmdb: `lmdb:${folder("lmdb")}`,
      s3: `s3://bucket/memories?endpoint=${bucket.endpoint}`,
      postgres: `postgres://postgres:secret@127.0.0.1:${postgres?.port}/postgres`,
    };
    const store = ["--store", addresses[kind]!, "--precision", kind === "s3" ? "int4" : "int8"];
    const env = { AWS_ACCESS_KEY_ID: credentials.accessKeyId, AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey };
    const first = await serve(store, env);
    await first.call("/v1/sessions", { id: "alice" });
    const wanted = answerOf(await first.call(CHAT, turn("One")));
    expect(wanted).toBeTypeOf("string");
    first.child.kill("SIGINT");
    const { code, stdout } = await first.finished;
    expect(code).toBe(0);
    expect(stdout).not.toContain("secret");
    const second = await serve(store, env);
    expect(await second.call("/v1/sessions/alice")).toMatchObject({ step: 1 });
    expect(answerOf(await second.call(CHAT, turn("Two")))).toBeTypeOf("string");
    second.child.kill("SIGINT");
    await second.finished;
    await bucket.stop();
    await postgres?.stop();
  });

  test("are not put where an address was mistyped", async () => {
    const { code, stderr } = await precis(["serve", "--model", folder("tiny"), "--store", "reddis://me:secret@host"]);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/no store for reddis:\/\/ addresses.*postgres:\/\//s);
    expect(stderr).not.toContain("secret");
  });

  test("are encrypted with a key of the environment", async () => {
    const env = { PRECIS_STORE_KEY: "ab".repeat(32) };
    const server = await serve(["--store", folder("secret")], env);
    await server.call("/v1/sessions", { id: "alice", metadata: { note: "a needle to look for" } });
    server.child.kill("SIGINT");
    await server.finished;
    const files = readdirSync(folder("secret"), { recursive: true, withFileTypes: true }).filter((file) =>
      file.isFile(),
    );
    expect(files.length).toBeGreaterThan(0);
    for (const file of files) expect(readFileSync(join(file.parentPath, file.name), "latin1")).not.toContain("needle");
    const other = await serve(["--store", folder("secret")], { PRECIS_STORE_KEY: "cd".repeat(32) });
    expect(await other.call("/v1/sessions")).toMatchObject({ data: [] });
    other.child.kill("SIGINT");
    expect((await other.finished).stdout).toContain("session-unreadable");
  });
});

describe("keys", () => {
  test("of a file and of the environment open their namespaces", async () => {
    writeFileSync(folder("keys"), "# comment\n\nalice sk-alice\nbob sk-bob\n");
    const server = await serve(["--keys", folder("keys"), "--store", "none"], { PRECIS_API_KEY: "sk-own" });
    for (const key of ["sk-alice", "sk-bob", "sk-own"]) {
      const headers = { authorization: `Bearer ${key}` };
      expect(await server.call("/v1/models", undefined, headers)).toMatchObject({ data: [{ id: "tiny" }] });
    }
    expect(await server.call("/v1/models")).toMatchObject({ error: { code: "invalid_api_key" } });
    server.child.kill("SIGINT");
    expect((await server.finished).stdout).not.toContain("sk-");
  });

  test.each([
    ["a public address without keys", ["--host", "0.0.0.0"], "OPTION_INVALID"],
    ["a key file that is none", ["--keys", "LINES"], "FILE_INVALID"],
    ["a key file that is missing", ["--keys", "nowhere"], "FILE_NOT_FOUND"],
    ["a size that is none", ["--memory", "much"], "OPTION_INVALID"],
  ])("%s is refused before a model is loaded", async (_name, args, code) => {
    writeFileSync(folder("lines"), "sk-only-a-key\n");
    const given = args.map((arg) => (arg === "LINES" ? folder("lines") : arg));
    const { stderr } = await precis(["serve", "--model", folder("nowhere"), ...given]);
    expect(stderr).toMatch(new RegExp(`^error \\[${code}\\]`));
    expect(stderr).not.toContain("sk-only");
  });
});

test("the playground is at the root, unless it is not wanted", async () => {
  const server = await serve(["--store", "none"]);
  const page = await fetch(server.url);
  expect([page.status, page.headers.get("content-type")]).toEqual([200, "text/html; charset=utf-8"]);
  const script = /src="\.(\/assets\/[^"]+\.js)"/.exec(await page.text())?.[1] ?? "";
  expect((await fetch(`${server.url}${script}`)).status).toBe(200);
  server.child.kill("SIGINT");
  await server.finished;
  const bare = await serve(["--store", "none", "--no-page"]);
  expect(await bare.call("/")).toMatchObject({ error: { code: "route_not_found" } });
  bare.child.kill("SIGINT");
  await bare.finished;
});

test("the greeting has the address and a line to try", async () => {
  const running = start(["serve", "--device", "cpu", "--model", folder("tiny"), "--port", "0", "--store", "none"]);
  await running.seen(/Ctrl-C/);
  running.child.kill("SIGINT");
  const { code, stdout } = await running.finished;
  expect(code).toBe(0);
  expect(stdout).toMatch(/Listening on http:\/\/127\.0\.0\.1:\d+\n/);
  expect(stdout).toMatch(/curl http:\/\/127\.0\.0\.1:\d+\/v1\/chat\/completions -H 'content-type: application\/json'/);
  expect(stdout).toContain("Memory: streaming");
  expect(stdout).toMatch(/Playground: http:\/\/127\.0\.0\.1:\d+\/\n/);
});
