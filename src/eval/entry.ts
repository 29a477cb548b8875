/** @file The methods of an evaluation: checked and described before any work, with the working time spent on each. */
import type { LanguageModel } from "../runtime/model.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { canonicalJson } from "../weights/files.js";
import type { MethodSpec } from "./method-spec.js";
import type { EvaluationOptions } from "./options.js";
import type { EvaluationResult, MethodResult, Observed } from "./result.js";

/** A method, checked and described, and the working time spent on it. */
export interface Entry {
  spec: MethodSpec;
  result: Observed["result"];
}

/** What an evaluation found, before it is summed up. */
export interface Found {
  primary: EvaluationResult["primary"];
  /** Cases per source or task. */
  sources: Record<string, number>;
  observed: Observed[];
  /** The method from which gaps to full context are measured; default `none`. */
  floor?: string;
}

/** One kind of evaluation: what methods make of held-out data. */
export type Evaluator = (options: EvaluationOptions, entries: readonly Entry[], tokenizer: Tokenizer) => Promise<Found>;

/** What will be said of a method, found out by making a memory of it. */
export async function describe(model: LanguageModel, spec: MethodSpec, all: readonly MethodSpec[]): Promise<Entry> {
  await using memory = await model.createMemory(spec.memory);
  const { method, options, adapter } = memory;
  const { label, shuffled } = spec;
  const alike = ({ memory: choice, budget }: MethodSpec): string => canonicalJson({ choice, budget });
  const original = all.find(({ label: name }) => name === label) ?? spec;
  const controlled = all.find((other) => !other.shuffled && alike(other) === alike(original));
  const result: Omit<MethodResult, "points" | "curve"> = {
    label,
    method,
    options,
    shuffled,
    ...(shuffled && controlled !== undefined && { controlOf: controlled.label }),
    adapter: adapter === undefined ? null : adapterOf(adapter),
    seconds: 0,
  };
  return { spec, result };
}

function adapterOf({
  directory,
  fingerprint,
  compTokens,
}: NonNullable<MethodResult["adapter"]>): NonNullable<MethodResult["adapter"]> {
  return { directory, fingerprint, compTokens };
}
