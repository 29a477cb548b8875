/** @file Devices that a model can run on, and how to choose one. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { listSupportedBackends } from "onnxruntime-node";
import { PrecisError } from "../errors.js";

/** Where a model runs. */
export type Device = "cpu" | "webgpu" | "cuda";

/** Every {@link Device}. */
export const DEVICES: readonly Device[] = ["cpu", "webgpu", "cuda"];

/** Whether the CUDA provider, which onnxruntime-node's install script fetches, is there. */
function hasCudaProvider(): boolean {
  const folder = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  return existsSync(join(folder, "bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so"));
}

/** Devices that the installed ONNX Runtime has; the machine may still lack the hardware or a driver. */
export function installedDevices(): Device[] {
  const names = new Set(listSupportedBackends().map((backend) => backend.name));
  return DEVICES.filter((device) => names.has(device) && (device !== "cuda" || hasCudaProvider()));
}

/**
 * The devices to try, in order, for a requested device or `"auto"`. WebGPU has to be asked for: rows live in main memory,
 * and carrying them to the device for every token costs more than it saves on models that a CPU can serve.
 * @throws DEVICE_UNAVAILABLE if the installed ONNX Runtime does not have it
 */
export function deviceCandidates(requested: Device | "auto"): Device[] {
  const available = installedDevices();
  if (requested === "auto") return available.filter((device) => device !== "webgpu").toReversed();
  if (available.includes(requested)) return [requested];
  const install = requested === "cuda" ? "Run onnxruntime-node's own install script, or use" : "Use";
  throw new PrecisError("DEVICE_UNAVAILABLE", `The installed ONNX Runtime does not have the device "${requested}".`, {
    value: requested,
    nextStep: `${install} one of: ${available.join(", ")}.`,
  });
}
