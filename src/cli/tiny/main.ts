/** @file `npm run train:tiny`: a first adapter in minutes, trained and measured by what `precis train` and `precis eval` run. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { interruptible } from "../interrupt.js";
import { wholeNumber } from "../model-options.js";
import { reportError } from "../report-error.js";
import { addTrainOptions } from "../train/flags.js";
import { runTiny, type TinyFlags } from "./run.js";

/** The bundled dialogues. */
const DATA = fileURLToPath(new URL("../../../examples/tiny", import.meta.url));

/** What is trained unless the command line says otherwise. */
const DEFAULTS: readonly string[] = [
  "--data",
  DATA,
  ...(
    "--method ccm-concat --output runs/tiny --labels all --comp-tokens 2 --sink --rank 16 --alpha 32 --max-steps 4 " +
    "--rows 4 --row-length 256 --steps 100 --learning-rate 0.002 --seed 1 --eval-every 50 --save-every 50 --device cpu"
  ).split(" "),
];

const HELP = `
Trains a small compression adapter on the dialogues in examples/tiny, measures what the memory is worth before and after on
dialogues with values that were never trained on, and says how to talk with it. Every option of \`precis train\` may be
given; those not given are:
  precis train ${DEFAULTS.join(" ").replace(DATA, "examples/tiny")}

Examples:
  $ npm run train:tiny
  $ npm run train:tiny -- --method ccm-merge --output runs/tiny-merge
  $ npm run train:tiny -- --steps 400 --comp-tokens 1 --output runs/tiny-1
`;

async function main(args: readonly string[]): Promise<void> {
  const command = addTrainOptions(new Command("npm run train:tiny --"))
    .description("a first adapter, trained and measured in minutes")
    .option("--questions <count>", "held-out dialogues to measure on", wholeNumber(1), 60)
    .addHelpText("after", HELP)
    .exitOverride()
    .configureOutput({ outputError: () => undefined });
  try {
    command.parse([...DEFAULTS, ...args], { from: "user" });
    const flags = command.opts<TinyFlags>();
    await interruptible((signal) => runTiny({ ...flags, output: resolve(flags.output) }, signal));
  } catch (error) {
    if (error instanceof Error && "exitCode" in error && error.exitCode === 0) return;
    process.exitCode = reportError(error, { json: args.includes("--json"), command: "train" });
  }
}

await main(process.argv.slice(2));
