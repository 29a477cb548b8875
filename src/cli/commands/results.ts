/** @file `precis results`: measures what a plan lists, one file per setting, and writes the page of results from these files. */
import { readFile, rm } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { Command, Option } from "commander";
import { PrecisError } from "../../errors.js";
import { Journal } from "../../eval/journal.js";
import type { MethodSpec } from "../../eval/method-spec.js";
import { drawChartFile } from "../../eval/report/svg-file.js";
import { chartsOf } from "../../eval/report/charts.js";
import { settingMarkdown } from "../../eval/results/markdown.js";
import { fillPage } from "../../eval/results/page.js";
import { methodsOf, readPlan, type PlannedSetting, type ResultsPlan } from "../../eval/results/plan.js";
import { isCurrent, readStored, writeStored, type Provenance } from "../../eval/results/stored.js";
import { evaluate } from "../../eval/runner.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { WeightDType } from "../../runtime/protocol.js";
import { canonicalJson, isSystemError, writeFileAtomic } from "../../weights/files.js";
import { interruptible } from "../interrupt.js";
import { findModel, wholeNumber } from "../model-options.js";
import { openModels, type ModelPool } from "../model-pool.js";
import { ProgressLine } from "../progress-line.js";
import { formatTable } from "../table.js";
import { formatDuration } from "../units.js";

interface ResultsFlags {
  data?: string;
  plan: string;
  page: string;
  force?: boolean;
  render?: boolean;
  workers?: number;
  threads?: number;
  json?: boolean;
}

/** What became of a setting. */
interface Outcome {
  setting: string;
  file: string;
  status: "measured" | "kept" | "rendered" | "missing";
  seconds: number;
}

const HELP = `
Examples:
  $ precis results --data DIR                     measure what is missing or out of date, then write the page
  $ precis results conversation --data DIR        only this setting
  $ precis results --render                       write page and plots from the files of earlier runs; needs no data

A plan lists settings: an evaluation, its methods with their adapters, time steps, how much data, and the seed. The files
lie beside it, one NAME.json per setting. A setting is skipped if its file was measured with the same settings, model and
adapters (data is not compared); --force measures it anyway. A run that was cut off goes on from NAME.partial.jsonl. Every method but "none" is measured with another sample's memory too, unless the
setting says "shuffled": false; streams have no such memory.

In the page, what stands between <!-- results: NAME --> and <!-- end: NAME --> is written anew; the rest stays as it is.
`;

/** The command `precis results`. */
export function resultsCommand(): Command {
  return new Command("results")
    .description("measure the results that a plan lists, and write them into a page")
    .argument("[settings...]", "names of settings (default: all of the plan)")
    .addOption(new Option("--data <dir>", "folder of data").env("PRECIS_DATA"))
    .option("--plan <file>", "the plan", "docs/results/plan.json")
    .option("--page <file>", "the page", "docs/results.md")
    .option("--force", "measure also what is up to date")
    .option("--render", "measure nothing, only write the page and its plots")
    .option("--workers <count>", "copies of the model that share the work (default: 1 below 8 cores)", wholeNumber(1))
    .option("--threads <count>", "CPU threads of each copy", wholeNumber(1))
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action((names: string[], flags: ResultsFlags) => interruptible((signal) => runResults(names, flags, signal)));
}

async function runResults(names: readonly string[], flags: ResultsFlags, signal: AbortSignal): Promise<void> {
  const plan = await readPlan(flags.plan);
  const unknown = names.find((name) => plan.settings.every((setting) => setting.name !== name));
  if (unknown !== undefined) {
    throw new PrecisError("OPTION_INVALID", `The plan has no setting "${unknown}".`, {
      value: unknown,
      nextStep: `It has ${plan.settings.map(({ name }) => name).join(", ")}.`,
    });
  }
  const chosen = plan.settings.filter(({ name }) => names.length === 0 || names.includes(name));
  const measured = flags.render === true ? [] : await measure(plan, chosen, flags, signal);
  const { outcomes: rendered, unplaced } = await render(plan.settings, flags);
  const outcomes = rendered.map((outcome) => measured.find(({ setting }) => setting === outcome.setting) ?? outcome);
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify({ page: flags.page, settings: outcomes, unplaced }, null, 2)}\n`);
    return;
  }
  const rows = outcomes.map(({ seconds, ...outcome }) => ({
    ...outcome,
    took: seconds === 0 ? "" : formatDuration(1000 * seconds),
  }));
  const notes = unplaced.map(
    (name) => `${flags.page} has no place for ${name}: add <!-- results: ${name} --> and its end.\n`,
  );
  process.stdout.write(`${formatTable(rows, ["setting", "status", "took", "file"])}\n${notes.join("")}`);
}

function fileOf(flags: ResultsFlags, { name }: PlannedSetting): string {
  return join(dirname(flags.plan), `${name}.json`);
}

/** Measures the settings whose files are not up to date, one after another; those of one model share its copies. */
async function measure(
  plan: ResultsPlan,
  settings: readonly PlannedSetting[],
  flags: ResultsFlags,
  signal: AbortSignal,
): Promise<Outcome[]> {
  const outcomes = new Map<PlannedSetting, Outcome>();
  for (const name of new Set(settings.map((setting) => setting.model ?? plan.model))) {
    const { workers, threads } = flags;
    const load = { model: name, dtype: plan.dtype as WeightDType, device: "cpu", workers, threads } as const;
    await using models = await openModels(await findModel(load, signal), load, signal);
    for (const setting of settings.filter(({ model = plan.model }) => model === name)) {
      outcomes.set(setting, await measureSetting(setting, models.all, flags, signal));
    }
  }
  return settings.map((setting) => outcomes.get(setting) as Outcome);
}

async function measureSetting(
  setting: PlannedSetting,
  [model, ...helpers]: ModelPool["all"],
  flags: ResultsFlags,
  signal: AbortSignal,
): Promise<Outcome> {
  const file = fileOf(flags, setting);
  const methods = methodsOf(setting);
  const provenance = await provenanceOf(model, setting, methods);
  if (flags.force !== true && isCurrent(await readStored(file), provenance)) {
    return { setting: setting.name, file, status: "kept", seconds: 0 };
  }
  const partial = join(dirname(flags.plan), `${setting.name}.partial.jsonl`);
  if (flags.force === true) await rm(partial, { force: true });
  const journal = await Journal.open(partial, canonicalJson(provenance));
  const startedAt = performance.now();
  const line = new ProgressLine();
  try {
    const { evaluation, steps, limit, seed, only, maxOptions, questions } = setting;
    const result = await evaluate({
      evaluation,
      model,
      helpers,
      dataDir: flags.data,
      methods,
      steps,
      limit,
      seed,
      only,
      maxOptions,
      questions,
      journal,
      signal,
      onProgress: ({ method, done, total }) => line.show(`${setting.name}, ${method}: ${done} of ${total}`),
    });
    await writeStored(file, provenance, result);
    await journal.finish();
  } finally {
    line.end();
  }
  return { setting: setting.name, file, status: "measured", seconds: (performance.now() - startedAt) / 1000 };
}

/** What the numbers of a setting would come from now. */
async function provenanceOf(
  model: LanguageModel,
  setting: PlannedSetting,
  methods: readonly MethodSpec[],
): Promise<Provenance> {
  const adapters: Record<string, string> = {};
  for (const { label, memory: choice, shuffled } of methods) {
    if (shuffled) continue;
    await using memory = await model.createMemory(choice);
    if (memory.adapter !== undefined) adapters[label] = memory.adapter.fingerprint;
  }
  return { setting, model: model.info.fingerprint, dtype: model.info.dtype, adapters };
}

/** Writes the page and the plots from the files that there are. */
async function render(
  settings: readonly PlannedSetting[],
  flags: ResultsFlags,
): Promise<{ outcomes: Outcome[]; unplaced: string[] }> {
  const folder = dirname(flags.plan);
  const plots = relative(dirname(flags.page), folder).replaceAll("\\", "/") || ".";
  const parts = new Map<string, string>();
  const outcomes: Outcome[] = [];
  for (const setting of settings) {
    const file = fileOf(flags, setting);
    const stored = await readStored(file);
    const status = stored === undefined ? "missing" : "rendered";
    outcomes.push({ setting: setting.name, file, status, seconds: 0 });
    if (stored === undefined) continue;
    parts.set(setting.name, settingMarkdown(stored, plots));
    for (const { name, chart } of chartsOf(stored.result)) {
      await writeFileAtomic(join(folder, `${setting.name}-${name}.svg`), drawChartFile(chart));
    }
  }
  const { text, unplaced } = fillPage(await readPage(flags.page), parts);
  await writeFileAtomic(flags.page, text);
  return { outcomes, unplaced };
}

async function readPage(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`);
    throw new PrecisError("FILE_NOT_FOUND", `There is no page ${file}.`, {
      value: file,
      nextStep: `Write one with <!-- results: NAME --> and <!-- end: NAME -->, or name another with --page.`,
    });
  }
}
