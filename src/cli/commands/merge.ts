/** @file `precis merge`: make an ordinary LoRA part of a model's weights. */
import { Command } from "commander";
import { mergeAdapter } from "../../train/merge-adapter.js";
import { interruptible } from "../interrupt.js";
import { DEFAULT_MODEL, findModel } from "../model-options.js";

interface MergeFlags {
  model: string;
  adapter: string;
  output: string;
  json?: boolean;
}

const HELP = `
Examples:
  $ precis merge --adapter runs/tuned/adapter --output models/tuned
  $ precis merge --model owner/name --adapter ./lora --output ./merged --json

The paper's recipe: the model first learns the data with the full context in view, then to compress it.
  $ precis train --method lora --data ./data --output runs/tuned --steps 300
  $ precis merge --adapter runs/tuned/adapter --output models/tuned
  $ precis train --model models/tuned --method ccm-concat --data ./data --output runs/concat
  $ precis chat --model models/tuned --adapter runs/concat/adapter

The new folder has weights of the same types, the tokenizer and the settings of the model. Its fingerprint is its own, so
adapters of the old model do not load with it. Compression adapters cannot be merged: they act at COMP tokens only.
`;

/** The command `precis merge`. */
export function mergeCommand(): Command {
  return new Command("merge")
    .description("add an ordinary LoRA to a model's weights and write the result as a model")
    .option("--model <model>", "model directory, embedded model, or hub id", DEFAULT_MODEL)
    .requiredOption("--adapter <dir>", "folder of the LoRA")
    .requiredOption("--output <dir>", "folder of the new model; must not exist, or be empty")
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action((flags: MergeFlags) => interruptible((signal) => merge(flags, signal)));
}

async function merge(flags: MergeFlags, signal: AbortSignal): Promise<void> {
  const { adapter, output, json = false } = flags;
  const model = await findModel({ ...flags, dtype: "fp32", device: "cpu" }, signal);
  const merged = await mergeAdapter({ model, adapter, output, signal });
  for (const warning of json ? [] : merged.warnings) process.stderr.write(`Note: ${warning}\n`);
  const text =
    `Merged ${merged.matrices} matrices into ${merged.directory}\n` +
    `Fingerprint: ${merged.fingerprint}\n` +
    `Train a compression adapter on it: precis train --model ${output} --method ccm-concat --data DIR --output DIR\n`;
  process.stdout.write(json ? `${JSON.stringify(merged)}\n` : text);
}
