/** @file `npm run bench:serve`: samples per second and the largest batch within a budget of keys and values. */
import { availableParallelism, cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type * as ReportErrorModule from "../dist/cli/report-error.js";
import type * as SizeModule from "../dist/cli/serve/size-option.js";
import type * as ChatPiecesModule from "../dist/data/chat-pieces.js";
import type * as RandomModule from "../dist/data/random.js";
import type * as WordsModule from "../dist/data/settings/random-words.js";
import type * as ErrorsModule from "../dist/errors.js";
import type * as Precis from "../dist/index.js";
import type * as TemplateModule from "../dist/text/chat-template.js";
import type * as TokenizerModule from "../dist/text/tokenizer.js";
import { built } from "./library.js";
import { watchOthers } from "./quiet.js";
import { measure, prepare, type Contestant, type MethodSetup, type ServeSettings } from "./serve/measure.js";
import { formatReport, type ServeReport } from "./serve/report.js";
import { makeSamples, type Samples } from "./serve/samples.js";

const HELP = `Usage: npm run bench:serve -- [options]
  --budget LIST       bytes of keys and values for all samples at once, such as 64MB; repeatable (default 16MB,64MB)
  --demonstrations N  of each context, a time step each (default 16)
  --answer N          tokens of an answer, chosen greedily (default 8)
  --cap N             most samples answered at once, whatever the budget (default 128)
  --samples N         answered in one measurement at least (default 24)
  --rounds N          in each of which every method is measured once (default 3)
  --model DIR         with adapters in adapters/in-context and adapters/ccm-merge (default models/precis-28m)
  --dtype TYPE        how weights are held: fp32, fp16, int8 or int4 (default fp32)
  --seed N            of what contexts and questions say (default 1)
  --json              print one JSON object with every measurement

Contexts are in memory before the clock starts; what is measured is reading a question of about 30 tokens and writing the
answer. The largest batch is the budget over the bytes of keys and values that one sample needs: memory, question, answer.`;

const BUDGETS = ["16MB", "64MB"];

/** Different contexts; samples of a batch are about them in turn. */
const CONTEXTS = 4;
/** Different questions. */
const QUESTIONS = 32;

/** The adapters of the multi-task setting. */
const METHODS: readonly MethodSetup[] = [
  { name: "full" },
  { name: "ccm-concat", adapter: "adapters/in-context" },
  { name: "ccm-merge", adapter: "adapters/ccm-merge" },
];

const OPTIONS = {
  budget: { type: "string", multiple: true },
  demonstrations: { type: "string", default: "16" },
  answer: { type: "string", default: "8" },
  cap: { type: "string", default: "128" },
  samples: { type: "string", default: "24" },
  rounds: { type: "string", default: "3" },
  model: { type: "string", default: "models/precis-28m" },
  dtype: { type: "string", default: "fp32" },
  seed: { type: "string", default: "1" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
} as const;

const DTYPES: readonly Precis.WeightDType[] = ["fp32", "fp16", "int8", "int4"];

async function samplesFor(directory: string, demonstrations: number, seed: string): Promise<Samples> {
  const { Tokenizer } = await built<typeof TokenizerModule>("text/tokenizer.js");
  const { ChatTemplate } = await built<typeof TemplateModule>("text/chat-template.js");
  const { ChatPieces } = await built<typeof ChatPiecesModule>("data/chat-pieces.js");
  const { SeededRandom } = await built<typeof RandomModule>("data/random.js");
  const { RANDOM_WORDS } = await built<typeof WordsModule>("data/settings/random-words.js");
  const tokenizer = await Tokenizer.load(directory);
  const template = await ChatTemplate.load(directory, tokenizer);
  if (template === undefined) {
    const { PrecisError } = await built<typeof ErrorsModule>("errors.js");
    throw new PrecisError("TEMPLATE_FAILED", "The model has no chat template.", {
      value: directory,
      nextStep: "Use a model with one.",
    });
  }
  const pieces = new ChatPieces(tokenizer, template);
  const counts = { contexts: CONTEXTS, demonstrations, questions: QUESTIONS };
  return makeSamples(pieces, new SeededRandom(seed, "serve"), RANDOM_WORDS, counts);
}

async function main(): Promise<void> {
  const { PrecisError } = await built<typeof ErrorsModule>("errors.js");
  const { byteSize } = await built<typeof SizeModule>("cli/serve/size-option.js");
  const { loadModel } = await built<typeof Precis>("index.js");
  const refuse = (message: string, value: unknown, nextStep: string): never => {
    throw new PrecisError("OPTION_INVALID", message, { value, nextStep });
  };
  const parse = (): ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>> => {
    try {
      return parseArgs({ options: OPTIONS });
    } catch (error) {
      return refuse((error as Error).message, process.argv.slice(2), "See `npm run bench:serve -- --help`.");
    }
  };
  const { values } = parse();
  if (values.help) {
    console.log(HELP);
    return;
  }
  const count = (name: "demonstrations" | "answer" | "cap" | "samples" | "rounds"): number => {
    const value = Number(values[name]);
    if (Number.isSafeInteger(value) && value >= 1) return value;
    return refuse(`--${name} cannot be "${values[name]}".`, values[name], "Use a whole number from 1 on.");
  };
  const size = (text: string): number => {
    try {
      return byteSize(text);
    } catch {
      return refuse(`--budget cannot be "${text}".`, text, "Write sizes such as 16MB,64MB.");
    }
  };
  const dtype =
    DTYPES.find((name) => name === values.dtype) ??
    refuse(`There is no dtype "${values.dtype}".`, values.dtype, `Use one of ${DTYPES.join(", ")}.`);
  const settings: ServeSettings = {
    budgets: (values.budget ?? BUDGETS).flatMap((list) => list.split(",")).map(size),
    cap: count("cap"),
    answerTokens: count("answer"),
    samples: count("samples"),
    rounds: count("rounds"),
  };
  const demonstrations = count("demonstrations");
  const models: Precis.LanguageModel[] = [];
  try {
    const contestants: Contestant[] = [];
    for (const { name, adapter } of METHODS) {
      // An adapter changes the graph of the model that it joins, so each method has a model of its own.
      const model = await loadModel(values.model, { dtype, device: "cpu", spin: false });
      models.push(model);
      const samples = await samplesFor(model.info.directory, demonstrations, values.seed);
      const setup = adapter === undefined ? { name } : { name, adapter: join(values.model, adapter) };
      contestants.push(await prepare(model, setup, samples, settings.answerTokens));
    }
    const others = watchOthers();
    const methods = await measure(contestants, settings, (round) => {
      process.stderr.write(`round ${round} of ${settings.rounds}\n`);
    });
    const report: ServeReport = {
      machine: { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: availableParallelism(), node: process.version },
      settings: { ...settings, demonstrations, model: values.model, dtype, seed: values.seed },
      others: others(),
      methods,
    };
    console.log(values.json ? JSON.stringify(report, null, 1) : await formatReport(report));
  } finally {
    for (const model of models) await model.dispose();
  }
}

try {
  await main();
} catch (error) {
  const { reportError } = await built<typeof ReportErrorModule>("cli/report-error.js");
  process.exitCode = reportError(error, { json: process.argv.includes("--json") });
}
