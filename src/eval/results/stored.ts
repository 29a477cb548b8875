/** @file A setting's results on disk, with what they were measured on, so that they are measured again only if that changed. */
import { relative, resolve } from "node:path";
import { PrecisError } from "../../errors.js";
import { canonicalJson, isRecord, readJsonObject, writeFileAtomic } from "../../weights/files.js";
import type { EvaluationResult } from "../result.js";
import type { PlannedSetting } from "./plan.js";

/** Counts up when results of earlier programs would no longer be what this one measures. */
const FORMAT = 1;

/** What decides a setting's numbers. */
export interface Provenance {
  setting: PlannedSetting;
  /** Digest of the model's weights, and how they were held. */
  model: string;
  dtype: string;
  /** Digests of adapters, by label of the methods that use one. */
  adapters: Readonly<Record<string, string>>;
}

/** The contents of a file. */
export interface StoredResult extends Provenance {
  format: typeof FORMAT;
  result: EvaluationResult;
}

/**
 * The results in `file`.
 * @returns undefined if there is no such file, or one of another format
 * @throws FILE_INVALID if it is no JSON object
 */
export async function readStored(file: string): Promise<StoredResult | undefined> {
  try {
    const json = await readJsonObject(file, "");
    return json["format"] === FORMAT && isRecord(json["result"]) ? (json as unknown as StoredResult) : undefined;
  } catch (error) {
    if (error instanceof PrecisError && error.code === "FILE_NOT_FOUND") return undefined;
    throw error;
  }
}

/** Whether results are those that would be measured now. */
export function isCurrent(stored: StoredResult | undefined, now: Provenance): boolean {
  if (stored === undefined) return false;
  const { setting, model, dtype, adapters } = stored;
  return canonicalJson({ setting, model, dtype, adapters }) === canonicalJson({ ...now });
}

/** Writes results with folders relative to the present one, so that they say nothing of this machine. */
export async function writeStored(file: string, provenance: Provenance, result: EvaluationResult): Promise<void> {
  const here = (directory: string): string => relative(process.cwd(), resolve(directory)).replaceAll("\\", "/");
  const methods = result.methods.map((method) =>
    method.adapter === null
      ? method
      : { ...method, adapter: { ...method.adapter, directory: here(method.adapter.directory) } },
  );
  const model = { ...result.model, directory: here(result.model.directory) };
  const stored: StoredResult = { format: FORMAT, ...provenance, result: { ...result, model, methods } };
  await writeFileAtomic(file, `${JSON.stringify(stored, rounded, 1)}\n`);
}

/** Digits beyond a millionth are noise, and half of the file. */
function rounded(_key: string, value: unknown): unknown {
  if (typeof value !== "number" || Number.isInteger(value)) return value;
  return Number(value.toPrecision(7));
}
