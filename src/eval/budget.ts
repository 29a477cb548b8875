/** @file Memories of equal size: a method's window so chosen that it never needs more KV positions than a budget. */
import { PrecisError } from "../errors.js";
import { findMethod } from "../memory/registry.js";
import type { LanguageModel } from "../runtime/model.js";
import type { MethodSpec } from "./method-spec.js";

/**
 * The method with the window that its budget leaves; as it is without one.
 * @throws OPTION_INVALID for a method that no window bounds, or a budget too small for what else it holds
 */
export async function withinBudget(model: LanguageModel, spec: MethodSpec): Promise<MethodSpec> {
  const { budget, memory: choice, label } = spec;
  if (budget === undefined) return spec;
  const { beyondWindow, options } = findMethod(choice.method);
  if (beyondWindow === undefined) {
    throw new PrecisError("OPTION_INVALID", `No window bounds the memory of ${choice.method}, so it takes no budget.`, {
      value: label,
      nextStep: "Leave budget out, or use sliding-window, streaming or streaming-ccm.",
    });
  }
  await using probe = await model.createMemory(choice);
  const window = budget - beyondWindow(probe.adapter?.compTokens ?? 0);
  const { min = 1 } = options["window"] ?? {};
  if (window >= min) return { ...spec, memory: { ...choice, options: { ...choice.options, window } } };
  throw new PrecisError("OPTION_INVALID", `A budget of ${budget} KV positions is too small for ${label}.`, {
    value: budget,
    nextStep: `Give it at least ${budget - window + min}.`,
  });
}
