/** @file Which memory to evaluate, as one word of a command line: `name[:adapterDir][,option=value…]`. */
import { PrecisError } from "../errors.js";
import { MEMORY_METHODS } from "../memory/registry.js";
import type { CreateMemoryOptions } from "../runtime/protocol.js";

/** A memory to evaluate. */
export interface MethodSpec {
  /** As it was given; names the method in results. */
  label: string;
  /** How to create it. */
  memory: CreateMemoryOptions & { method: string };
  /** Give it the context of another case: what is left of its benefit is not memory. */
  shuffled: boolean;
  /** Most KV positions ever held at once: sets the window of a method that has one, see `budget.ts`. */
  budget?: number;
}

/** Names that stand for a method with options. */
const ALIASES: Readonly<Record<string, { method: string; options: Record<string, string> }>> = {
  // Each step squeezed on its own by an adapter that was trained to squeeze once: the paper's baseline.
  "gist-online": { method: "ccm-concat", options: { recursive: "false" } },
};

/** Option that is no method's own: see {@link MethodSpec.shuffled}. */
export const SHUFFLED = "shuffled";

/** Option that is no method's own: see {@link MethodSpec.budget}. */
const BUDGET = "budget";

/**
 * @example parseMethodSpec("sliding-window,window=64")
 * @example parseMethodSpec("ccm-concat:my-adapter,shuffled=true")
 * @throws METHOD_UNKNOWN, OPTION_INVALID
 */
export function parseMethodSpec(text: string): MethodSpec {
  const [head = "", ...settings] = text.split(",");
  const colon = head.indexOf(":");
  const name = colon < 0 ? head : head.slice(0, colon);
  const adapter = colon < 0 ? undefined : head.slice(colon + 1);
  const alias = Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined;
  const method = alias?.method ?? name;
  if (!MEMORY_METHODS.some((known) => known.name === method)) {
    const names = [...MEMORY_METHODS.map((known) => known.name), ...Object.keys(ALIASES)];
    throw new PrecisError("METHOD_UNKNOWN", `There is no memory method "${name}".`, {
      value: name,
      nextStep: `Methods: ${names.join(", ")}.`,
    });
  }
  if (alias !== undefined && adapter === undefined) {
    throw new PrecisError("OPTION_INVALID", `The method ${name} needs an adapter that was trained with gist.`, {
      value: text,
      nextStep: `Name its folder: ${name}:DIR.`,
    });
  }
  const options: Record<string, string> = { ...alias?.options };
  let shuffled = false;
  let budget: number | undefined;
  for (const setting of settings) {
    const at = setting.indexOf("=");
    const [option, value] = [setting.slice(0, at), setting.slice(at + 1)];
    if (
      at < 1 ||
      (option === SHUFFLED && !/^(true|false)$/.test(value)) ||
      (option === BUDGET && !/^[1-9]\d*$/.test(value))
    ) {
      throw new PrecisError("OPTION_INVALID", `"${setting}" in the method "${text}" is no option.`, {
        value: setting,
        nextStep: "Write options as name=value, such as window=64, budget=160 or shuffled=true.",
      });
    }
    if (option === SHUFFLED) shuffled = value === "true";
    else if (option === BUDGET) budget = Number(value);
    else options[option] = value;
  }
  return { label: text, memory: { method, adapter, options }, shuffled, ...(budget !== undefined && { budget }) };
}
