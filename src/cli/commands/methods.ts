/** @file `precis methods`: list the memory methods and their options. */
import { Command } from "commander";
import type { MemoryMethod, OptionSpec } from "../../memory/method.js";
import { MEMORY_METHODS } from "../../memory/registry.js";
import { styleOf, type Style } from "../style.js";

const HELP = `
Examples:
  $ precis methods                          what each method keeps, and its options
  $ precis methods --json                   an array of {name, summary, needsAdapter, paper, options}

Use one with "precis chat --method streaming --set window=128".
`;

/** The command `precis methods`. */
export function methodsCommand(): Command {
  return new Command("methods")
    .description("list the memory methods and their options")
    .option("--json", "print a JSON array")
    .addHelpText("after", HELP)
    .action(({ json = false }: { json?: boolean }) => {
      const text = json ? JSON.stringify(MEMORY_METHODS.map(toJson), null, 2) : describeMethods();
      process.stdout.write(`${text}\n`);
    });
}

function toJson({ name, summary, needsCompTokens, paper, options }: MemoryMethod): object {
  return { name, summary, needsAdapter: needsCompTokens, paper: paper ?? null, options };
}

function describeMethods(): string {
  const style = styleOf(process.stdout);
  return MEMORY_METHODS.map((method) => describeMethod(method, style)).join("\n\n");
}

function describeMethod({ name, summary, needsCompTokens, paper, options }: MemoryMethod, style: Style): string {
  const marks = [needsCompTokens ? "needs an adapter" : "training-free", paper].filter((mark) => mark !== undefined);
  const lines = [`${style.bold(name)}  ${style.dim(marks.join(" · "))}`, `  ${summary}`];
  const settings = Object.entries(options).map(([option, spec]) => [`${option}=${spec.default}`, spec] as const);
  const width = Math.max(0, ...settings.map(([setting]) => setting.length));
  for (const [setting, spec] of settings) {
    lines.push(
      ...wrapped(describeOption(spec), width + 6).map((line, index) =>
        index === 0 ? `    ${style.accent(setting.padEnd(width))}  ${line}` : `${" ".repeat(width + 6)}${line}`,
      ),
    );
  }
  return lines.join("\n");
}

function describeOption({ description, choices }: OptionSpec): string {
  return choices === undefined ? description : `${description} (${choices.join(", ")})`;
}

/** `text` in lines that fit beside an indentation. */
function wrapped(text: string, indentation: number): string[] {
  const width = Math.max(40, Math.min(process.stdout.columns ?? 100, 120) - indentation);
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines[lines.length - 1] as string;
    if (line !== "" && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines;
}
