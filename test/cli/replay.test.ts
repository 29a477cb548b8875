/** @file `precis replay` on a short conversation, and the bundled one. */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import type { ReplaySummary } from "#precis/cli/replay/summary.js";
import { EXAMPLE_CONVERSATION, readConversation } from "#precis/cli/replay/conversation.js";
import { loadModel } from "#precis/index.js";
import { writeRandomAdapter, writeRandomModel } from "../reference/random-model.js";
import { precis, testFolder } from "./precis.js";

const folder = testFolder();
const MESSAGES = [
  { role: "user", content: "I have a cat." },
  { role: "assistant", content: "What is its name?" },
  { role: "user", content: "Ada." },
  { role: "assistant", content: "Nice." },
  { role: "user", content: "What is the name of my cat?" },
];

beforeAll(() => {
  const { options } = writeRandomModel(folder("model"), { layers: 2, hiddenSize: 32, seed: 6 });
  writeRandomAdapter(folder("adapter"), { ...options, compTokens: 2 });
  writeFileSync(folder("chat.json"), JSON.stringify(MESSAGES));
  // The conversation has 48 tokens, and its question 30 more.
  writeLimitedModel("tight", 50);
  writeLimitedModel("small", 44);
});

/** Writes the same model, made for fewer positions. */
function writeLimitedModel(name: string, positions: number): void {
  const { config } = writeRandomModel(folder(name), { layers: 2, hiddenSize: 32, seed: 6 });
  writeFileSync(folder(name, "config.json"), JSON.stringify({ ...config, max_position_embeddings: positions }));
}

/** Replays the short conversation. */
async function replay(...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await precis(["replay", folder("chat.json"), "--device", "cpu", ...more]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

describe("a short conversation", () => {
  test("--json sums up every memory, as the library measures it", async () => {
    const stdout = await replay("--model", folder("model"), "--adapter", folder("adapter"), "--json");
    const summary = JSON.parse(stdout) as ReplaySummary;
    expect(summary).toMatchObject({ turns: 4, commonAnswers: 2, questions: [{ ask: MESSAGES[4]?.content }] });
    expect(summary.memories.map(({ method }) => method)).toEqual([
      "full",
      "sliding-window",
      "streaming-ccm",
      "ccm-concat",
    ]);
    for (const { answers, overflowTurn } of summary.memories) {
      expect(answers).toHaveLength(1);
      expect(overflowTurn).toBeNull();
    }
    await using model = await loadModel(folder("model"), { device: "cpu" });
    const full = await model.createMemory({ method: "full" });
    const nll: number[] = [];
    for (const message of MESSAGES.slice(0, 4)) {
      // With the byte tokenizer an answer is <|assistant|>, its bytes, <|end|>; <|assistant|> is given.
      const ids = [4, ...(await model.tokenize(message.content)), 2];
      if (message.role === "assistant") nll.push(...(await (await full.fork()).score(ids)));
      await full.append([message]);
    }
    const perplexity = Math.exp(nll.reduce((sum, value) => sum + value, 0) / nll.length);
    expect(summary.memories[0]?.perplexity).toBeCloseTo(perplexity, 3);
    expect(summary.memories[0]?.bytes).toBe((await full.stats()).bytes);
  });

  test("a question without room for its answer is no failure", async () => {
    const summary = JSON.parse(await replay("--model", folder("tight"), "--json")) as ReplaySummary;
    expect(summary.memories[0]).toMatchObject({ method: "full", overflowTurn: null, answers: [null] });
  });

  test("the full cache ends at the context limit, the others go on", async () => {
    const stdout = await replay("--model", folder("small"), "--window", "16");
    expect(stdout).toContain("full cache: context limit reached at turn 4\n");
    expect(stdout).toMatch(/sliding window 16 .+ 4\.10 kB/);
    expect(stdout).toContain("cannot answer");
    expect(stdout).toContain("What to try next");
    expect(stdout).toContain("training-free");
  });
});

test("the bundled conversation alternates and asks at the end", async () => {
  const { messages, questions } = await readConversation(EXAMPLE_CONVERSATION);
  expect(messages.length).toBeGreaterThanOrEqual(60);
  messages.forEach(({ role }, index) => expect(role).toBe(index % 2 === 0 ? "user" : "assistant"));
  expect(questions.length).toBeGreaterThan(0);
});
