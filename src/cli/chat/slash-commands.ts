/** @file The commands of the chat that begin with a slash. */
import { PrecisError } from "../../errors.js";
import { describeMethod, parseSetting } from "../model-options.js";
import { formatBytes } from "../../format/sizes.js";
import { formatTable } from "../table.js";
import { formatCount, formatDuration } from "../units.js";
import type { Chat } from "./chat.js";
import { describeMemory } from "./describe.js";

/** One command. */
interface SlashCommand {
  usage: string;
  summary: string;
  /** @returns what to say, or undefined to leave the chat */
  run: (chat: Chat, words: readonly string[]) => Promise<string | undefined>;
}

/** The commands by name. */
const SLASH_COMMANDS: Readonly<Record<string, SlashCommand>> = {
  memory: {
    usage: "/memory",
    summary: "what the memory holds",
    run: (chat) => describeMemory(chat.model, chat.memory),
  },
  save: {
    usage: "/save FILE",
    summary: "write the memory to a file",
    run: async (chat, words) => {
      const file = fileName(words, "save");
      return `saved ${formatBytes(await chat.save(file))} to ${file}`;
    },
  },
  load: {
    usage: "/load FILE",
    summary: "go on from a saved memory",
    run: async (chat, words) => {
      const file = fileName(words, "load");
      await chat.load(file);
      const { slots, tokensSeen } = await chat.memory.stats();
      const size = `${formatCount(slots, "slot")} for ${formatCount(tokensSeen, "token")}`;
      return `loaded ${file}: ${describeMethod(chat.memory.method, chat.memory.options)}, ${size}`;
    },
  },
  fork: {
    usage: "/fork [N]",
    summary: "copy the conversation and go on with the copy; with a number, switch to that fork",
    run: fork,
  },
  method: {
    usage: "/method NAME [option=value …]",
    summary: "read the conversation so far into another kind of memory",
    run: changeMethod,
  },
  help: { usage: "/help", summary: "this list", run: async () => describeCommands() },
  quit: { usage: "/quit", summary: "leave (so does Ctrl-C or Ctrl-D at the prompt)", run: async () => undefined },
};

/** Runs a line such as `/save chat.kv`. @returns what to say, or undefined to leave the chat */
export async function runSlashCommand(chat: Chat, line: string): Promise<string | undefined> {
  const [name = "", ...words] = line.slice(1).trim().split(/\s+/);
  const command = Object.hasOwn(SLASH_COMMANDS, name) ? SLASH_COMMANDS[name] : undefined;
  if (command !== undefined) return command.run(chat, words);
  throw new PrecisError("OPTION_INVALID", `There is no command /${name}.`, { nextStep: "/help lists the commands." });
}

function describeCommands(): string {
  const rows = Object.values(SLASH_COMMANDS).map(({ usage, summary }) => ({ command: usage, "what it does": summary }));
  return formatTable(rows, ["command", "what it does"]);
}

function fileName(words: readonly string[], command: string): string {
  if (words.length > 0) return words.join(" ");
  throw new PrecisError("OPTION_INVALID", `/${command} needs a file.`, {
    nextStep: `Write for example /${command} chat.kv`,
  });
}

async function fork(chat: Chat, [number]: readonly string[]): Promise<string> {
  const from = chat.place.fork;
  if (number === undefined) await chat.fork();
  else chat.switchTo(Number(number));
  const { fork: now, forks } = chat.place;
  const { tokensSeen } = await chat.memory.stats();
  const facts = [`fork ${now} of ${forks}`, `${formatCount(tokensSeen, "token")} seen`];
  if (number === undefined) facts.push(`copied from fork ${from}`);
  if (now !== from) facts.push(`/fork ${from} goes back`);
  return facts.join(" · ");
}

async function changeMethod(chat: Chat, [method, ...settings]: readonly string[]): Promise<string> {
  if (method === undefined) {
    throw new PrecisError("OPTION_INVALID", "/method needs the name of a method.", {
      nextStep: "Write for example /method sliding-window window=128; `precis methods` lists them.",
    });
  }
  const options = Object.fromEntries(settings.map(readSetting));
  const { tokens, milliseconds, textIncomplete } = await chat.changeMethod(method, options);
  const { slots, bytes } = await chat.memory.stats();
  const lost = textIncomplete ? "\nwhat was said before /load is not in it: a snapshot holds no text" : "";
  const cost = `read ${formatCount(tokens, "token")} again in ${formatDuration(milliseconds)}`;
  const name = describeMethod(method, chat.memory.options);
  return `${name}: ${cost}, now ${formatCount(slots, "slot")} · ${formatBytes(bytes)}${lost}`;
}

function readSetting(word: string): [string, string] {
  const setting = parseSetting(word);
  if (setting !== undefined) return setting;
  throw new PrecisError("OPTION_INVALID", `"${word}" is not an option of a method.`, {
    nextStep: "Write options as option=value, such as window=128.",
  });
}
