/** @file `precis inspect`: what a memory holds after every step, with its tensors as files. */
import { Command } from "commander";
import { PrecisError } from "../../errors.js";
import type { Memory } from "../../memory/memory.js";
import type { MemoryStats } from "../../memory/memory-stats.js";
import type { LanguageModel } from "../../runtime/model.js";
import { describeNextTokens, nextTokens, type NextToken } from "../inspect/next-tokens.js";
import { summarizeNll, writeLogits, writeMemory, writeNll } from "../inspect/outputs.js";
import { readStepsFile, type StepsFile } from "../inspect/steps-file.js";
import { interruptible } from "../interrupt.js";
import { LineTable } from "../line-table.js";
import {
  addMemoryOptions,
  addModelOptions,
  chooseMemory,
  describeMethod,
  findModel,
  openModel,
  type MemoryFlags,
  type ModelFlags,
} from "../model-options.js";
import { styleOf } from "../style.js";
import { formatBytes, formatRatio } from "../../format/sizes.js";
import { formatCount, formatPerplexity } from "../units.js";

interface InspectFlags extends ModelFlags, MemoryFlags {
  steps: string;
  logits?: string;
  memory?: string;
  nll?: string;
  json?: boolean;
}

/** What is found out; printed by `--json`. */
interface Inspection {
  model: string;
  method: string;
  options: Readonly<Record<string, unknown>>;
  adapter: string | null;
  steps: (MemoryStats & { step: number })[];
  input: { tokens: number; next: NextToken[] } | null;
  nll: { tokens: number; perplexity: number | null } | null;
  final: MemoryStats;
  files: Record<string, string>;
}

const HELP = `
Examples:
  $ precis inspect --method streaming --set window=128 --steps conversation.json
  $ precis inspect --method ccm-concat --adapter my-adapter --steps ids.json --memory memory.safetensors
  $ precis inspect --method full --steps ids.json --logits logits.safetensors --nll nll.json --json

FILE is JSON, either a conversation or token ids:
  [{"role": "user", "content": "Hi"}, …]    or {"messages": […]}: each message is a step. If the last one is the user's,
                                            it is not a step but the input, with the template's opening of an answer.
  {"steps": [[5, 6], [7]], "input": [8]}    each list is a step; "stream" means the same as "input". A text may stand
                                            in place of a list.

After the steps the input is run:
  --logits   tensor "logits" [tokens, vocab] of the input given the memory
  --nll      negative log-likelihood in nats of each token of the input after its first, each given the memory of its
             moment: {"nll", "perplexity", "tokens"}, or tensor "nll" if the name ends in .safetensors
  --memory   tensors "keys.L" and "values.L" [kv heads, slots, head size] after the steps; with --nll, after the input
`;

/** The command `precis inspect`. */
export function inspectCommand(): Command {
  const command = new Command("inspect").description(
    "show what a memory holds after every step, and write its tensors",
  );
  addMemoryOptions(addModelOptions(command), "the adapter's own, else full");
  return command
    .requiredOption("--steps <file>", "conversation or token ids, as JSON")
    .option("--logits <file>", "write the input's logits, as safetensors")
    .option("--memory <file>", "write the memory's keys and values, as safetensors")
    .option("--nll <file>", "score the input and write the result")
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action((flags: InspectFlags) => interruptible((signal) => inspect(flags, signal)));
}

async function inspect(flags: InspectFlags, signal: AbortSignal): Promise<void> {
  const file = await readStepsFile(flags.steps);
  if (file.input === undefined && (flags.logits !== undefined || flags.nll !== undefined)) {
    throw new PrecisError("INPUT_INVALID", `${flags.steps} has no input for --logits or --nll.`, {
      nextStep: 'Add an "input" to its token ids, or end the conversation with a user message.',
    });
  }
  const directory = await findModel(flags, signal);
  const choice = await chooseMemory(directory, flags);
  await using model = await openModel(directory, flags, signal);
  const memory = await model.createMemory(choice);
  const print = flags.json === true ? () => undefined : (line: string) => void process.stdout.write(`${line}\n`);
  const { dim } = styleOf(process.stdout);
  const adapter = memory.adapter === undefined ? "" : ` · adapter ${memory.adapter.directory}`;
  print(dim(`${flags.model} · ${describeMethod(memory.method, memory.options)}${adapter}`));
  const steps = await runSteps(memory, file, signal, print);
  const found: Inspection = {
    model: model.info.directory,
    method: memory.method,
    options: memory.options,
    adapter: memory.adapter?.directory ?? null,
    steps,
    ...(await runInput(model, memory, file, { flags, signal })),
  };
  if (flags.json === true) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
  else describeInput(found, print);
}

const TABLE = new LineTable([
  { heading: "step", width: 5 },
  { heading: "tokens", width: 7 },
  { heading: "slots", width: 6 },
  { heading: "memory", width: 8 },
  { heading: "full cache", width: 10 },
  { heading: "ratio", width: 6 },
  { heading: "position", width: 8 },
]);

async function runSteps(
  memory: Memory,
  { steps }: StepsFile,
  signal: AbortSignal,
  print: (line: string) => void,
): Promise<Inspection["steps"]> {
  if (steps.length > 0) print(TABLE.heading());
  const done: Inspection["steps"] = [];
  for (const [index, step] of steps.entries()) {
    const stats = await memory.append(step, { signal });
    const { tokensSeen, slots, bytes, fullCacheBytes, ratio, position } = stats;
    const sizes = [formatBytes(bytes), formatBytes(fullCacheBytes), formatRatio(ratio)];
    print(TABLE.row([String(index + 1), String(tokensSeen), String(slots), ...sizes, String(position)]));
    done.push({ step: index + 1, ...stats });
  }
  return done;
}

/** Runs the input as the flags ask. Logits come before the score, since only the score changes the memory. */
async function runInput(
  model: LanguageModel,
  memory: Memory,
  { input }: StepsFile,
  { flags, signal }: { flags: InspectFlags; signal: AbortSignal },
): Promise<Pick<Inspection, "input" | "nll" | "final" | "files">> {
  const files: Record<string, string> = {};
  let run: Inspection["input"] = null;
  let scored: Inspection["nll"] = null;
  if (input !== undefined) {
    const output = await memory.forward(input, { logits: flags.logits === undefined ? "last" : "all", signal });
    run = { tokens: output.ids.length, next: await nextTokens(model, output, 5) };
    if (flags.logits !== undefined) await writeLogits((files.logits = flags.logits), output);
    if (flags.nll !== undefined) {
      const nll = await memory.score(input, { signal });
      scored = summarizeNll(nll);
      await writeNll((files.nll = flags.nll), nll);
    }
  }
  if (flags.memory !== undefined) await writeMemory((files.memory = flags.memory), memory);
  return { input: run, nll: scored, final: await memory.stats(), files };
}

function describeInput({ input, nll, final, files }: Inspection, print: (line: string) => void): void {
  const facts: [string, string][] = [];
  if (input !== null) {
    facts.push(["input", formatCount(input.tokens, "token")], ["next token", describeNextTokens(input.next)]);
  }
  if (nll !== null) {
    const perplexity = formatPerplexity(nll.perplexity ?? undefined);
    facts.push(["scored", `${formatCount(nll.tokens, "token")}, perplexity ${perplexity}`]);
    facts.push(["memory", `${formatCount(final.slots, "slot")}, ${formatBytes(final.bytes)}`]);
  }
  for (const [what, file] of Object.entries(files)) facts.push([`${what} file`, file]);
  if (facts.length > 0) print("");
  for (const [name, value] of facts) print(`${name.padEnd(13)}${value}`);
}
