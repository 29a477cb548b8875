import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

import { TINY_SPLITS, tinyDialogues } from "#precis/cli/tiny/dialogues.js";
import type { TinySummary } from "#precis/cli/tiny/run.js";
import { temporaryFolder } from "../../weights/folders.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));

describe("the bundled dialogues", () => {
  it.each(TINY_SPLITS)("%s is what the generator makes", async (split) => {
    const lines = (await readFile(`${root}examples/tiny/${split}.jsonl`, "utf8")).trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual(tinyDialogues(split));
  });

  it("hold back whole answers: none of dev or test is trained on", () => {
    const answersOf = (split: (typeof TINY_SPLITS)[number]): Set<string | undefined> =>
      new Set(tinyDialogues(split).map(({ turns }) => turns.at(-1)?.text));
    const [train, dev, test] = TINY_SPLITS.map(answersOf) as [Set<string>, Set<string>, Set<string>];
    expect([...dev].filter((answer) => train.has(answer) || test.has(answer))).toEqual([]);
    expect([...test].filter((answer) => train.has(answer))).toEqual([]);
  });
});

it("trains, measures and says where the adapter is", { timeout: 60_000 }, async () => {
  await using folder = await temporaryFolder();
  const args = ["--steps", "2", "--rows", "1", "--questions", "3", "--output", folder.path, "--json"];
  const { stdout } = await promisify(execFile)(process.execPath, [`${root}dist/cli/tiny/main.js`, ...args]);
  const { steps, adapter, measured } = JSON.parse(stdout) as TinySummary;
  expect(steps).toBe(2);
  expect(JSON.parse(await readFile(`${adapter}/adapter_config.json`, "utf8"))).toMatchObject({ peft_type: "LORA" });
  expect(Object.keys(measured)).toHaveLength(5);
  for (const { perplexity } of Object.values(measured)) expect(perplexity).toBeGreaterThan(1);
  // Whoever remembers everything knows the answer better than whoever remembers nothing.
  expect(measured["everything (full cache)"]?.perplexity).toBeLessThan(measured["nothing"]?.perplexity ?? 0);
});
