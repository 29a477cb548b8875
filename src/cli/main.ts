#!/usr/bin/env node
/** @file The command `precis`. */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { chatCommand } from "./commands/chat.js";
import { evalCommand } from "./commands/eval.js";
import { ingestCommand } from "./commands/ingest.js";
import { inspectCommand } from "./commands/inspect.js";
import { mergeCommand } from "./commands/merge.js";
import { methodsCommand } from "./commands/methods.js";
import { modelsCommand } from "./commands/models.js";
import { pullCommand } from "./commands/pull.js";
import { replayCommand } from "./commands/replay.js";
import { resultsCommand } from "./commands/results.js";
import { serveCommand } from "./commands/serve.js";
import { trainCommand } from "./commands/train.js";
import { workerCommand } from "./commands/worker.js";
import { reportError } from "./report-error.js";

/** Every command, in the order of the help. */
const COMMANDS: readonly (() => Command)[] = [
  chatCommand,
  serveCommand,
  ingestCommand,
  workerCommand,
  replayCommand,
  inspectCommand,
  trainCommand,
  mergeCommand,
  evalCommand,
  resultsCommand,
  methodsCommand,
  modelsCommand,
  pullCommand,
];

const HELP = `
Examples:
  $ precis replay                           see what a small memory costs and what it keeps
  $ precis chat                             talk with the embedded model
  $ precis serve                            an OpenAI-compatible server whose sessions remember
  $ precis inspect --method streaming --steps conversation.json

Exit codes: 0 success, 1 bug, 2 usage or input, 3 not found, 4 device or engine, 5 damaged or unfitting files,
130 interrupted. PRECIS_DEBUG=1 adds stack traces to errors.
`;

function packageVersion(): string {
  const manifest = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(manifest) as { version: string }).version;
}

function buildProgram(): Command {
  const program = new Command("precis")
    .description("Language models with a compressed memory: long conversations in kilobytes.")
    .version(packageVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "show help")
    .addHelpText("after", HELP)
    // Errors come back as exceptions, to be shown the same way wherever they arise.
    .exitOverride()
    .configureOutput({ outputError: () => undefined });
  for (const create of COMMANDS) {
    program.addCommand(create().copyInheritedSettings(program));
  }
  return program;
}

/** Whether `error` is how commander ends after showing help or the version. */
function isFinished(error: unknown): boolean {
  return error instanceof CommanderError && error.exitCode === 0;
}

async function main(args: readonly string[]): Promise<void> {
  // A reader that has seen enough, such as `head`, is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  const program = buildProgram();
  if (args.length === 0) return program.outputHelp();
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    if (isFinished(error)) return;
    const command = program.commands.find((candidate) => candidate.name() === args[0])?.name();
    process.exitCode = reportError(error, { json: args.includes("--json"), command });
  }
}

await main(process.argv.slice(2));
