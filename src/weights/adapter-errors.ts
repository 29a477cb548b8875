/** @file Refusals of adapters: what is wrong with one, and what to do about it. */
import { PrecisError } from "../errors.js";

/** An ADAPTER_INVALID error about the adapter in `directory`. */
export function invalidAdapter(directory: string, problem: string, nextStep?: string): PrecisError {
  return new PrecisError("ADAPTER_INVALID", `The adapter in ${directory} ${problem}.`, { nextStep });
}

/** An ADAPTER_MISMATCH error about a part of the adapter in `folder` that is for models of another hidden size. */
export function wrongHiddenSize(folder: string, part: string, size: number, hiddenSize: number): PrecisError {
  const message = `The adapter in ${folder} has ${part} for a hidden size of ${size}, but this model's is ${hiddenSize}.`;
  return new PrecisError("ADAPTER_MISMATCH", message, { nextStep: "Load the model it was trained on." });
}

/** @throws ADAPTER_INVALID where a part of the adapter in `folder` holds NaN or infinity */
export function refuseNonFinite(values: Float32Array, part: string, folder: string): void {
  const index = values.findIndex((value) => !Number.isFinite(value));
  if (index >= 0)
    throw invalidAdapter(folder, `holds ${values[index]} at element ${index} of ${part}`, "Train it again.");
}
