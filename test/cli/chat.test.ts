/** @file `precis chat` with lines piped in. */
import { readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { writeRandomAdapter, writeRandomModel } from "../reference/random-model.js";
import { precis, start, testFolder } from "./precis.js";

const folder = testFolder();
const STATUS = /^memory \d+ slots? · .+ │ full cache \d+ tokens? · .+ │ (nothing saved yet|[\d.]+× smaller)/gm;

beforeAll(() => {
  for (const name of ["model", "equipped"]) writeRandomModel(folder(name), { layers: 2, hiddenSize: 32, seed: 4 });
  const { options } = writeRandomModel(folder("equipped"), { layers: 2, hiddenSize: 32, seed: 4 });
  const adapter = folder("equipped", "adapters", "one");
  writeRandomAdapter(adapter, { ...options, compTokens: 2 });
  const config = `${adapter}/adapter_config.json`;
  const json = JSON.parse(readFileSync(config, "utf8")) as Record<string, unknown>;
  writeFileSync(config, JSON.stringify({ ...json, precis: { method: "ccm-concat", compTokens: 2 } }));
});

/** Pipes lines into a chat with a tiny model. */
async function chat(lines: readonly string[], ...more: string[]): Promise<string> {
  const args = ["chat", "--device", "cpu", "--model", folder("model"), "--max-tokens", "6", ...more];
  const { code, stdout, stderr } = await precis(args, `${lines.join("\n")}\n`);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

describe("a conversation", () => {
  test("says once that the method is training-free, and what each turn costs", async () => {
    const stdout = await chat(["Hello", "How are you?"]);
    expect(stdout.match(/training-free/g)).toHaveLength(1);
    expect(stdout).toContain("streaming (window 512");
    expect(stdout.match(STATUS)).toHaveLength(2);
  });

  test("uses an installed adapter", async () => {
    const stdout = await chat(["Hello there, old friend"], "--model", folder("equipped"));
    expect(stdout).toContain("ccm-concat");
    expect(stdout).not.toContain("training-free");
    expect(stdout).toMatch(/^memory 2 slots · /m);
  });

  test("begins with a system message", async () => {
    const [alone, told] = await Promise.all([
      chat(["/memory"], "--method", "full"),
      chat(["/memory"], "--method", "full", "--system", "Be brief."),
    ]);
    expect(alone).toMatch(/seen +0 tokens in 0 steps/);
    // <|bos|> and <|system|> before the nine bytes, <|end|> behind them.
    expect(told).toMatch(/seen +12 tokens in 1 step\n/);
    expect(told).toMatch(/KIND +SLOTS +SIZE\ntext +12 /);
  });

  test("with the embedded model answers in words", async () => {
    const { stdout } = await precis(["chat", "--device", "cpu", "--max-tokens", "20"], "Hi! How are you today?\n");
    expect(stdout).toMatch(/\n[A-Z][a-z' ,]+.*\nmemory \d+ slots · /);
  });
});

describe("commands", () => {
  test("/save and /load go on from where it was; a failed /load changes nothing", async () => {
    const [saved, after, again] = ["a.kv", "b.kv", "c.kv"].map((name) => folder(name));
    writeFileSync(folder("broken.kv"), "not a snapshot");
    const loads = [`/load ${folder("nowhere.kv")}`, `/load ${folder("broken.kv")}`];
    const stdout = await chat([
      "Hello",
      `/save ${saved}`,
      ...loads,
      `/save ${after}`,
      "And now?",
      `/load ${saved}`,
      `/save ${again}`,
    ]);
    expect(stdout).toContain("error [FILE_NOT_FOUND]");
    expect(stdout).toContain("error [SNAPSHOT_CORRUPT]");
    expect(stdout).toMatch(/loaded .+a\.kv: streaming .+ slots for \d+ tokens/);
    const bytes = readFileSync(saved as string);
    expect(readFileSync(after as string).equals(bytes)).toBe(true);
    expect(readFileSync(again as string).equals(bytes)).toBe(true);
  });

  test("/fork makes and switches; forks do not touch each other", async () => {
    const saves = ["f1.kv", "f2.kv"].map((name) => `/save ${folder(name)}`);
    const stdout = await chat(["Hello", saves[0] as string, "/fork", "More", "/fork 1", saves[1] as string, "/fork 7"]);
    expect(stdout).toMatch(/fork 2 of 2 · \d+ tokens seen · copied from fork 1 · \/fork 1 goes back/);
    expect(stdout).toMatch(/fork 1 of 2 · \d+ tokens seen · \/fork 2 goes back/);
    expect(stdout).toContain("There is no fork 7.");
    expect(readFileSync(folder("f2.kv")).equals(readFileSync(folder("f1.kv")))).toBe(true);
  });

  test("/method reads the conversation into another memory", async () => {
    const stdout = await chat(["Hello there, how are you?", "/method sliding-window window=8", "/memory", "Bye"]);
    expect(stdout).toMatch(/sliding-window \(window 8\): read \d\d tokens again in .+s, now 8 slots · /);
    expect(stdout).toMatch(/^memory 8 slots · /m);
  });

  test("mistakes are explained, and the chat goes on", async () => {
    const stdout = await chat(["/nope", "/method", "/method gist", "/method full window=2", "/save", "/help", "Hello"]);
    expect(stdout.match(/^error \[OPTION_INVALID\]: .+\n {2}→ .+/gm)).toHaveLength(5);
    expect(stdout).toContain("/method NAME [option=value …]");
    expect(stdout.match(STATUS)).toHaveLength(1);
  });

  test("/quit leaves", async () => {
    expect(await chat(["/quit", "Hello"])).not.toMatch(STATUS);
  });
});

test("Ctrl-C stops an answer and keeps it", async () => {
  const args = ["chat", "--device", "cpu", "--model", folder("model"), "--max-tokens", "1000000", "--temperature", "2"];
  const { child, seen, finished } = start(args);
  child.stdin?.write("Hello\n");
  await seen(/Ctrl-C stops an answer\.\n[^]{20}/);
  child.kill("SIGINT");
  await seen(/ │ stopped\n/);
  child.stdin?.end("/memory\n/quit\n");
  const { code, stdout } = await finished;
  expect(code).toBe(0);
  expect(stdout).toMatch(/seen +\d{2,} tokens in 1 step\n/);
});
