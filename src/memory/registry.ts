/** @file Every memory method, by name. */
import { PrecisError } from "../errors.js";
import type { MemoryMethod } from "./method.js";
import { autocompressor } from "./methods/autocompressor.js";
import { ccmConcat } from "./methods/ccm-concat.js";
import { ccmMerge } from "./methods/ccm-merge.js";
import { compressive } from "./methods/compressive.js";
import { full } from "./methods/full.js";
import { gist } from "./methods/gist.js";
import { local } from "./methods/local.js";
import { none } from "./methods/none.js";
import { rmt } from "./methods/rmt.js";
import { scattered } from "./methods/scattered.js";
import { sentinel } from "./methods/sentinel.js";
import { slidingWindow } from "./methods/sliding-window.js";
import { streaming } from "./methods/streaming.js";
import { streamingCcm } from "./methods/streaming-ccm.js";

/** All memory methods, in the order in which they are shown. */
export const MEMORY_METHODS: readonly MemoryMethod[] = [
  full,
  none,
  slidingWindow,
  streaming,
  ccmConcat,
  ccmMerge,
  gist,
  compressive,
  autocompressor,
  rmt,
  streamingCcm,
  sentinel,
  local,
  scattered,
];

/** @throws METHOD_UNKNOWN */
export function findMethod(name: string): MemoryMethod {
  const method = MEMORY_METHODS.find((candidate) => candidate.name === name);
  if (method !== undefined) return method;
  throw new PrecisError("METHOD_UNKNOWN", `There is no memory method "${name}".`, {
    value: name,
    nextStep: `Methods: ${MEMORY_METHODS.map((candidate) => candidate.name).join(", ")}.`,
  });
}
