/** @file What the results in the documentation are measured on: a JSON file that lists settings with their methods. */
import { PrecisError } from "../../errors.js";
import { isRecord, readJsonObject } from "../../weights/files.js";
import { parseMethodSpec, type MethodSpec } from "../method-spec.js";
import { withControls } from "../shuffled.js";
import { EVALUATIONS, UNSHUFFLED, type EvaluationName } from "../tasks/task.js";

/** A method, and what results call it. */
export interface PlannedMethod {
  label: string;
  /** As `precis eval --method` takes it. */
  method: string;
}

/** One evaluation with everything that decides its numbers, data apart. */
export interface PlannedSetting {
  /** Names its files and its place in the page. */
  name: string;
  evaluation: EvaluationName;
  /** Folder or name of its model, if not the plan's. */
  model?: string;
  methods: readonly PlannedMethod[];
  /** Every method but `none` is measured with another sample's memory too. */
  shuffled: boolean;
  seed: number;
  steps?: readonly number[];
  limit?: number;
  only?: readonly string[];
  maxOptions?: number;
  questions?: number;
}

/** A whole plan. */
export interface ResultsPlan {
  /** Folder or name of the model. */
  model: string;
  dtype: string;
  settings: readonly PlannedSetting[];
}

/**
 * Reads a plan.
 * @throws FILE_NOT_FOUND, FILE_INVALID for a field that is missing or of the wrong kind; METHOD_UNKNOWN, OPTION_INVALID
 * for a method that is none
 */
export async function readPlan(file: string): Promise<ResultsPlan> {
  const json = await readJsonObject(
    file,
    "Name the plan's file with --plan, or write one as docs/results/plan.json is.",
  );
  const { model, dtype = "fp32", settings } = json;
  if (typeof model !== "string") throw invalid(file, "model", model);
  if (typeof dtype !== "string") throw invalid(file, "dtype", dtype);
  if (!Array.isArray(settings) || settings.length === 0) throw invalid(file, "settings", settings);
  const read = settings.map((setting, index) => readSetting(file, setting, `settings[${index}]`));
  const names = read.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw invalid(file, "settings", twice);
  return { model, dtype, settings: read };
}

function readSetting(file: string, json: unknown, where: string): PlannedSetting {
  if (!isRecord(json)) throw invalid(file, where, json);
  const { evaluation, model, seed = 0, methods, steps, limit, only, maxOptions, questions } = json;
  const { name = evaluation, shuffled = !UNSHUFFLED.some((other) => other === evaluation) } = json;
  const known = EVALUATIONS.find((candidate) => candidate === evaluation);
  if (known === undefined) throw invalid(file, `${where}.evaluation`, evaluation);
  if (typeof name !== "string" || !/^[a-z0-9][a-z0-9-]*$/.test(name)) throw invalid(file, `${where}.name`, name);
  if (typeof shuffled !== "boolean") throw invalid(file, `${where}.shuffled`, shuffled);
  if (model !== undefined && !isText(model)) throw invalid(file, `${where}.model`, model);
  if (!isCount(seed)) throw invalid(file, `${where}.seed`, seed);
  if (steps !== undefined && !isListOf(steps, isCount)) throw invalid(file, `${where}.steps`, steps);
  if (only !== undefined && !isListOf(only, isText)) throw invalid(file, `${where}.only`, only);
  if (limit !== undefined && !isCount(limit)) throw invalid(file, `${where}.limit`, limit);
  if (maxOptions !== undefined && !isCount(maxOptions)) throw invalid(file, `${where}.maxOptions`, maxOptions);
  if (questions !== undefined && !isPositive(questions)) throw invalid(file, `${where}.questions`, questions);
  if (!Array.isArray(methods) || methods.length === 0) throw invalid(file, `${where}.methods`, methods);
  const planned = methods.map((method: unknown): PlannedMethod => {
    if (typeof method === "string") return { label: method, method };
    if (isRecord(method) && isText(method["label"]) && isText(method["method"])) {
      return { label: method["label"], method: method["method"] };
    }
    throw invalid(file, `${where}.methods`, method);
  });
  for (const { method } of planned) parseMethodSpec(method);
  const chosen = { steps, limit, only, maxOptions, questions };
  return { name, evaluation: known, model, methods: planned, shuffled, seed, ...chosen };
}

/** The methods of a setting with their labels, controls included. */
export function methodsOf({ methods, shuffled }: PlannedSetting): MethodSpec[] {
  const specs = methods.map(({ label, method }) => ({ ...parseMethodSpec(method), label }));
  return shuffled ? withControls(specs) : specs;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isPositive(value: unknown): value is number {
  return isCount(value) && value > 0;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function isListOf<Item>(value: unknown, fits: (item: unknown) => item is Item): value is Item[] {
  return Array.isArray(value) && value.every(fits);
}

function invalid(file: string, field: string, value: unknown): PrecisError {
  const shown = JSON.stringify(value)?.slice(0, 100);
  return new PrecisError("FILE_INVALID", `The plan ${file} has an unusable "${field}": ${shown}.`, {
    value,
    nextStep: `Evaluations are ${EVALUATIONS.join(", ")}; see docs/results/plan.json for every field.`,
  });
}
