/** @file Devices that a model can run on, and how to choose one. */
import { existsSync } from "node:fs";
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

/** Whether the machine shows a graphics device, as far as one can see without starting a driver. */
function hasGraphicsDevice(): boolean {
  return process.platform !== "linux" || existsSync("/dev/dri/renderD128") || existsSync("/dev/nvidia0");
}

/** The devices to try, in order, for a requested device or `"auto"`. */
export function deviceCandidates(requested: Device | "auto"): Device[] {
  const available = builtInDevices();
  if (requested === "auto") {
    return available
      .filter((device) => device === "cpu" || (hasGraphicsDevice() && available.includes(device)))
      .reverse();
  }
  if (available.includes(requested)) return [requested];
  throw new PrecisError("DEVICE_UNAVAILABLE", `This ONNX Runtime has no support for "${requested}".`, {
    value: requested,
    nextStep: `Use one of: ${available.join(", ")}.`,
  });
}
