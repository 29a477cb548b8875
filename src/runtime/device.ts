/** @file Devices that a model can run on, and how to choose one. */
import { listSupportedBackends } from "onnxruntime-node";
import { PrecisError } from "../errors.js";

/** Where a model runs. */
export type Device = "cpu" | "webgpu" | "cuda";

/** Every {@link Device}. */
export const DEVICES: readonly Device[] = ["cpu", "webgpu", "cuda"];

/** Devices that the installed ONNX Runtime was built with; a device may still be missing from the machine. */
export function builtInDevices(): Device[] {
  const names = new Set(listSupportedBackends().map((backend) => backend.name));
  return DEVICES.filter((device) => names.has(device));
}

/**
 * The devices to try, in order, for a requested device or `"auto"`. WebGPU has to be asked for: rows live in main memory,
 * and carrying them to the device for every token costs more than it saves on models that a CPU can serve.
 */
export function deviceCandidates(requested: Device | "auto"): Device[] {
  const available = builtInDevices();
  if (requested === "auto") {
    return available.filter((device) => device !== "webgpu").reverse();
  }
  if (available.includes(requested)) return [requested];
  throw new PrecisError("DEVICE_UNAVAILABLE", `This ONNX Runtime has no support for "${requested}".`, {
    value: requested,
    nextStep: `Use one of: ${available.join(", ")}.`,
  });
}
