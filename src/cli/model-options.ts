/** @file Options that several commands share: which model, on which device, with which memory. */
import { join } from "node:path";
import { InvalidArgumentError, Option, type Command } from "commander";
import { PrecisError } from "../errors.js";
import { formatBytes } from "../format/sizes.js";
import { resolveOptions } from "../memory/method.js";
import { findMethod, MEMORY_METHODS } from "../memory/registry.js";
import { DEVICES, type Device } from "../runtime/device.js";
import { loadModel, type LanguageModel, type LoadOptions } from "../runtime/model.js";
import type { CreateMemoryOptions, LoadProgress, WeightDType } from "../runtime/protocol.js";
import { isRecord, readJsonObject } from "../weights/files.js";
import { namesIn } from "../weights/hub-cache.js";
import { resolveModel } from "../weights/hub.js";
import { ProgressLine } from "./progress-line.js";

/** Name of the embedded model that commands use unless told otherwise. */
export const DEFAULT_MODEL = "precis-28m";

/** Values of the options that {@link addModelOptions} adds. */
export interface ModelFlags {
  model: string;
  dtype: WeightDType;
  device: Device | "auto";
  threads?: number;
}

/** Values of the options that {@link addMemoryOptions} adds. */
export interface MemoryFlags {
  adapter?: string;
  spanAdapter?: string;
  method?: string;
  set?: Record<string, string>;
}

/** Adds `--model`, `--dtype`, `--device` and `--threads`. */
export function addModelOptions(command: Command): Command {
  return command
    .option("--model <model>", "model directory, embedded model, or hub id", DEFAULT_MODEL)
    .addOption(
      new Option("--dtype <type>", "how weights are held").choices(["fp32", "fp16", "int8", "int4"]).default("fp32"),
    )
    .addOption(new Option("--device <device>", "where to run").choices(["auto", ...DEVICES]).default("auto"))
    .option("--threads <count>", "CPU threads (default: one per physical core)", wholeNumber(1));
}

/** Adds `--adapter`, `--method` and `--set`. */
export function addMemoryOptions(command: Command, defaultMethod: string): Command {
  return command
    .option("--adapter <dir>", "folder of a compression adapter")
    .option("--span-adapter <dir>", "folder of a sentinel adapter, for ccm-concat or ccm-merge with --set spans=…")
    .option("--method <name>", `memory method, see "precis methods" (default: ${defaultMethod})`)
    .option("--set <option=value>", "option of the method; may be repeated", addSetting);
}

/** A parser of option values that takes whole numbers from `min` on. */
export function wholeNumber(min: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && Number.isSafeInteger(value)) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} on.`);
  };
}

/** A parser of option values that takes numbers from `min` on. */
export function positiveNumber(min: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && value >= min) return value;
    throw new InvalidArgumentError(`It must be a number from ${min} on.`);
  };
}

/** Splits `option=value`; undefined if it has no name or no equals sign. */
export function parseSetting(text: string): [name: string, value: string] | undefined {
  const at = text.indexOf("=");
  return at < 1 ? undefined : [text.slice(0, at), text.slice(at + 1)];
}

function addSetting(text: string, previous: Record<string, string> = {}): Record<string, string> {
  const setting = parseSetting(text);
  if (setting === undefined) throw new InvalidArgumentError('Write it as option=value, such as "window=128".');
  return { ...previous, [setting[0]]: setting[1] };
}

/** A compression adapter, and the method that it was trained for. */
export interface InstalledAdapter {
  directory: string;
  method: string;
}

/** The method that the adapter in `directory` was trained for; undefined if it names none of ours. */
export async function adapterMethod(directory: string): Promise<string | undefined> {
  const config = await readJsonObject(join(directory, "adapter_config.json"), "").catch(() => undefined);
  const method = isRecord(config?.precis) ? config.precis.method : undefined;
  return MEMORY_METHODS.find(({ name }) => name === method)?.name;
}

/** The adapters that a model brings along, in `adapters/NAME` of its directory, by name. */
export async function installedAdapters(modelDirectory: string): Promise<InstalledAdapter[]> {
  const found: InstalledAdapter[] = [];
  for (const name of await namesIn(join(modelDirectory, "adapters"))) {
    const directory = join(modelDirectory, "adapters", name);
    const method = await adapterMethod(directory);
    if (method !== undefined) found.push({ directory, method });
  }
  return found;
}

/**
 * Which memory the options ask for, checked before a model is loaded. A method that needs an adapter takes the installed
 * one trained for it, else the first one, if none was named.
 * @throws METHOD_UNKNOWN, OPTION_INVALID
 */
export async function chooseMemory(modelDirectory: string, flags: MemoryFlags): Promise<CreateMemoryOptions> {
  const { adapter, spanAdapter, method: name, set: options = {} } = flags;
  if (name === undefined) return { adapter, spanAdapter, options };
  const method = findMethod(name);
  resolveOptions(method, options);
  if (!method.needsCompTokens || adapter !== undefined) return { method: name, adapter, spanAdapter, options };
  const installed = await installedAdapters(modelDirectory);
  const own = installed.find((candidate) => candidate.method === name);
  const special = method.needsSentinels === true || method.needsSummaryGain === true;
  const chosen = own ?? (special ? undefined : installed.find((candidate) => candidate.method !== "sentinel"));
  if (chosen !== undefined) return { method: name, adapter: chosen.directory, spanAdapter, options };
  throw new PrecisError("OPTION_INVALID", `The method ${name} needs an adapter, and none is installed.`, {
    value: name,
    nextStep: "Pass one with --adapter DIR, or choose a training-free method; `precis methods` says which are.",
  });
}

/** The directory of the model that the options name, downloaded if need be. */
export async function findModel({ model }: ModelFlags, signal: AbortSignal): Promise<string> {
  const line = new ProgressLine();
  try {
    return await resolveModel(model, {
      signal,
      onProgress: ({ file, bytesDone, bytesTotal }) =>
        line.show(`Downloading ${file}: ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`),
    });
  } finally {
    line.end();
  }
}

/** Loads the model in `directory` as the options ask. */
export async function openModel(
  directory: string,
  flags: ModelFlags,
  signal: AbortSignal,
  options: Pick<LoadOptions, "spin"> = {},
): Promise<LanguageModel> {
  const line = new ProgressLine();
  const { dtype, device, threads } = flags;
  const onProgress = ({ phase, item, done, total }: LoadProgress): void =>
    line.show(phase === "start" ? "Starting the model …" : `Converting to ${dtype}: ${done} of ${total} ${item}`);
  try {
    return await loadModel(directory, { ...options, dtype, device, threads, signal, onProgress });
  } finally {
    line.end();
  }
}

/** `"streaming (window 512, sink 4)"`: a method and its options; what is switched off, by 0 or none, is left out. */
export function describeMethod(method: string, options: Readonly<Record<string, unknown>>): string {
  const settings = Object.entries(options)
    .filter(([name, value]) => value !== 0 && !(options["spans"] === "none" && name.startsWith("span")))
    .map(([name, value]) => `${name} ${String(value)}`);
  return settings.length === 0 ? method : `${method} (${settings.join(", ")})`;
}
