/** @file `precis replay`: a long conversation with several memories side by side. */
import { Command } from "commander";
import type { LanguageModel } from "../../runtime/model.js";
import type { CreateMemoryOptions } from "../../runtime/protocol.js";
import type { ChatMessage } from "../../text/chat-template.js";
import { interruptible } from "../interrupt.js";
import {
  adapterMethod,
  addModelOptions,
  findModel,
  installedAdapters,
  openModel,
  wholeNumber,
  type ModelFlags,
} from "../model-options.js";
import { Contestant } from "../replay/contestant.js";
import { AnswerTokenizer, EXAMPLE_CONVERSATION, readConversation, type Conversation } from "../replay/conversation.js";
import { describeNextSteps, describeSummary, summarize } from "../replay/summary.js";
import { LIVE_COLUMNS, LineView, LiveView, SILENT_VIEW, type ReplayView } from "../replay/view.js";
import { styleOf } from "../style.js";

interface ReplayFlags extends ModelFlags {
  adapter?: string;
  window: number;
  json?: boolean;
}

/** Most tokens of an answer at the end. */
const ANSWER_TOKENS = 40;

const HELP = `
Examples:
  $ precis replay                           the bundled conversation, longer than the embedded model's context
  $ precis replay my-conversation.json --window 64
  $ precis replay --json                    the summary as one JSON object

FILE is JSON: messages like [{"role": "user", "content": "…"}, …], or {"messages": […], "questions": [{"ask": "…"}]}.

Every memory takes in the true conversation, turn by turn. Before an answer is taken in, its perplexity given the memory
is measured. At the end each memory answers the questions itself, or else the user message that the file ends with.
`;

/** The command `precis replay`. */
export function replayCommand(): Command {
  const command = new Command("replay")
    .description("replay a long conversation with several memories side by side")
    .argument("[file]", "conversation as JSON (default: a bundled one)");
  return addModelOptions(command)
    .option("--adapter <dir>", "compare this compression adapter too (default: one that is installed with the model)")
    .option("--window <slots>", "slots of the sliding window and of the streaming memory", wholeNumber(8), 128)
    .option("--json", "print the summary as one JSON object")
    .addHelpText("after", HELP)
    .action((file: string | undefined, flags: ReplayFlags) =>
      interruptible((signal) => replay(file ?? EXAMPLE_CONVERSATION, flags, signal)),
    );
}

async function replay(file: string, flags: ReplayFlags, signal: AbortSignal): Promise<void> {
  const conversation = await readConversation(file);
  const directory = await findModel(flags, signal);
  const tokenizer = await AnswerTokenizer.load(directory);
  await using model = await openModel(directory, flags, signal);
  const contestants = await createContestants(model, flags);
  const json = flags.json === true;
  if (!json) process.stdout.write(`${describeStart(conversation, model, flags)}\n\n`);
  const view = json ? SILENT_VIEW : terminalColumns() >= LIVE_COLUMNS ? new LiveView() : new LineView();
  await runTurns(conversation, contestants, { tokenizer, view, signal });
  const answers: (string | undefined)[][] = [];
  for (const contestant of contestants) {
    const own: (string | undefined)[] = [];
    for (const { ask } of conversation.questions) own.push(await contestant.answer(ask, ANSWER_TOKENS, signal));
    answers.push(own);
  }
  const summary = summarize(model.info, conversation, contestants, answers);
  if (json) process.stdout.write(`${JSON.stringify(summary, null, 2)}\n`);
  else process.stdout.write(`\n${describeSummary(summary)}\n\n${describeNextSteps(file)}\n`);
}

/** Width of the terminal; 0 for a pipe. */
function terminalColumns(): number {
  return process.stdout.isTTY ? process.stdout.columns : 0;
}

function describeStart({ title, messages }: Conversation, { info }: LanguageModel, { model }: ReplayFlags): string {
  const { bold, dim } = styleOf(process.stdout);
  const facts = `${messages.length} turns · ${model}, whose context is ${info.maxPositions} tokens · ${info.dtype} · ${info.device}`;
  return `${bold(title)}  ${dim(facts)}`;
}

/** The memories to compare: the two bounds that need no training, and what the adapter makes of the same slots and of fewer. */
async function chooseContestants(
  directory: string,
  { adapter, window }: ReplayFlags,
): Promise<[label: string, options: CreateMemoryOptions][]> {
  const [installed] = await installedAdapters(directory);
  const compressor = adapter ?? installed?.directory;
  const common: [string, CreateMemoryOptions][] = [
    ["full cache", { method: "full" }],
    [`sliding window ${window}`, { method: "sliding-window", options: { window } }],
  ];
  if (compressor === undefined)
    return [...common, [`streaming ${window}`, { method: "streaming", options: { window } }]];
  const quarter = Math.max(1, Math.floor(window / 4));
  const bounded = { window, compress: quarter, memory: quarter };
  return [
    ...common,
    [`streaming CCM ${window}`, { method: "streaming-ccm", adapter: compressor, options: bounded }],
    [(await adapterMethod(compressor)) ?? "ccm-concat", { adapter: compressor }],
  ];
}

async function createContestants(model: LanguageModel, flags: ReplayFlags): Promise<Contestant[]> {
  const contestants: Contestant[] = [];
  for (const [label, options] of await chooseContestants(model.info.directory, flags)) {
    contestants.push(await Contestant.create(label, await model.createMemory(options)));
  }
  return contestants;
}

async function runTurns(
  { messages }: Conversation,
  contestants: readonly Contestant[],
  { tokenizer, view, signal }: { tokenizer: AnswerTokenizer; view: ReplayView; signal: AbortSignal },
): Promise<void> {
  let asked: ChatMessage[] = [];
  for (const [index, message] of messages.entries()) {
    const isAnswer = message.role === "assistant";
    const isLast = index === messages.length - 1;
    // A question waits for its answer: what is asked now is never compressed before it is answered.
    if (!isAnswer) asked.push(message);
    if (!isAnswer && !isLast) continue;
    const start = index + 1 - asked.length - (isAnswer ? 1 : 0);
    const answer = isAnswer ? tokenizer.tokens(message, asked, messages.slice(0, start)) : undefined;
    const step = { turn: index + 1, messages: messages.slice(start, index + 1), answer };
    for (const contestant of contestants) await contestant.takeTurn(step, signal);
    view.show({ turn: index + 1, turns: messages.length, message }, contestants);
    asked = [];
  }
}
