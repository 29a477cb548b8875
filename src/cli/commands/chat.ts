/** @file `precis chat`: talk with a model in the terminal, and see what its memory costs. */
import { createInterface } from "node:readline";
import { Command } from "commander";
import { PrecisError } from "../../errors.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { CreateMemoryOptions } from "../../runtime/protocol.js";
import { Chat } from "../chat/chat.js";
import { describeTurn } from "../chat/describe.js";
import { runSlashCommand } from "../chat/slash-commands.js";
import { interruptible } from "../interrupt.js";
import {
  addMemoryOptions,
  addModelOptions,
  chooseMemory,
  describeMethod,
  findModel,
  installedAdapters,
  openModel,
  positiveNumber,
  wholeNumber,
  type MemoryFlags,
  type ModelFlags,
} from "../model-options.js";
import { describeError, formatError } from "../report-error.js";
import { styleOf } from "../style.js";

interface ChatFlags extends ModelFlags, MemoryFlags {
  maxTokens?: number;
  temperature?: number;
  seed?: number;
  system?: string;
}

/** The default memory holds at most this many slots, and at most half of the model's context. */
const DEFAULT_WINDOW = 512;

const HELP = `
Examples:
  $ precis chat                             the embedded model with a bounded memory
  $ precis chat --method full               the plain KV cache, to compare with
  $ precis chat --method streaming --set window=128 --set sink=8
  $ precis chat --model owner/name --dtype int8 --system "You are brief."
  $ echo "Can you book a table?" | precis chat

In the chat, /help lists what else can be done: /memory, /save, /load, /fork, /method. Ctrl-C stops an answer and keeps
it; at the prompt it leaves.
`;

/** The command `precis chat`. */
export function chatCommand(): Command {
  const command = new Command("chat").description("talk with a model whose memory stays small");
  addMemoryOptions(addModelOptions(command), "that of an installed adapter, else streaming");
  return command
    .option("--max-tokens <count>", "longest answer in tokens (default: the model's own)", wholeNumber(1))
    .option(
      "--temperature <number>",
      "0 always takes the likeliest token (default: the model's own)",
      positiveNumber(0),
    )
    .option("--seed <number>", "makes sampled answers reproducible", wholeNumber(0))
    .option("--system <text>", "system message to begin with")
    .addHelpText("after", HELP)
    .action(chat);
}

async function chat(flags: ChatFlags): Promise<void> {
  await using model = await interruptible(async (signal) => {
    const directory = await findModel(flags, signal);
    await chooseMemory(directory, flags);
    return openModel(directory, flags, signal);
  });
  if (!model.info.hasChatTemplate) {
    throw new PrecisError("TEMPLATE_FAILED", `${flags.model} has no chat template, so it cannot chat.`, {
      nextStep: "Choose a chat model, or use `precis inspect` with token ids.",
    });
  }
  const { choice, remark } = await chatMemory(model, flags);
  const memory = await model.createMemory(choice);
  const { maxTokens, temperature, seed, system } = flags;
  const talk = new Chat(model, memory, { maxTokens, temperature, seed }, flags.adapter);
  const { dim, bold } = styleOf(process.stdout);
  const { family, dtype, device } = model.info;
  process.stdout.write(`${bold(flags.model)} ${dim(`${family} · ${dtype} · ${device}`)}\n`);
  process.stdout.write(dim(`Memory: ${describeMethod(memory.method, memory.options)}${remark}\n`));
  process.stdout.write(dim("/help lists the commands. Ctrl-C stops an answer.\n"));
  if (system !== undefined) {
    await interruptible((signal) => talk.tell({ role: "system", content: system }, signal));
  }
  await converse(talk);
}

/** The memory that the options ask for; without a wish, that of the first installed adapter, else a window. */
async function chatMemory(
  model: LanguageModel,
  flags: ChatFlags,
): Promise<{ choice: CreateMemoryOptions; remark: string }> {
  const { directory, maxPositions } = model.info;
  if (flags.method !== undefined || flags.adapter !== undefined) {
    return { choice: await chooseMemory(directory, flags), remark: "" };
  }
  const [installed] = await installedAdapters(directory);
  if (installed !== undefined) {
    return { choice: { adapter: installed.directory, options: flags.set }, remark: `, adapter ${installed.directory}` };
  }
  const window = Math.max(2, Math.min(DEFAULT_WINDOW, Math.floor(maxPositions / 2)));
  const remark = "\nNo trained compression adapter is installed, so this uses a training-free method.";
  return { choice: { method: "streaming", options: { window, ...flags.set } }, remark };
}

/** Reads lines until the end, from a terminal or a pipe. */
async function converse(talk: Chat): Promise<void> {
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
  const { accent } = styleOf(process.stdout);
  const lines = createInterface({
    input: process.stdin,
    ...(isTerminal && { output: process.stdout, prompt: `${accent("›")} ` }),
  });
  const prompt = (): void => {
    if (!isTerminal) return;
    process.stdout.write("\n");
    lines.prompt();
  };
  const onInterrupt = (): void => {
    if (!talk.stop()) lines.close();
  };
  // A terminal in raw mode reports Ctrl-C to readline, a pipe's process gets the signal.
  lines.on("SIGINT", onInterrupt);
  process.on("SIGINT", onInterrupt);
  try {
    prompt();
    for await (const line of lines) {
      if (line.trim() !== "" && !(await takeTurn(talk, line.trim()))) break;
      prompt();
    }
  } finally {
    process.off("SIGINT", onInterrupt);
    lines.close();
    if (isTerminal) process.stdout.write("\n");
  }
}

/** Answers one line. A failure is shown, and the chat goes on. @returns whether it goes on */
async function takeTurn(talk: Chat, line: string): Promise<boolean> {
  const { dim } = styleOf(process.stdout);
  try {
    if (line.startsWith("/")) {
      const reply = await runSlashCommand(talk, line);
      if (reply !== undefined) process.stdout.write(`${reply}\n`);
      return reply !== undefined;
    }
    const result = await talk.ask(line, (text) => process.stdout.write(text));
    process.stdout.write(`\n${dim(describeTurn(result))}\n`);
  } catch (error) {
    process.stdout.write(`${formatError(describeError(error, "chat"), process.stdout)}\n`);
  }
  return true;
}
