/** @file What work leaves on an abort signal. */
import { getEventListeners } from "node:events";

/**
 * Listeners of a signal, and entries that it keeps for the signals that AbortSignal.any made of it. Node counts only the
 * former for its warning; the latter it keeps for as long as the signal lives, and shows to nobody.
 */
export function tracesOn(signal: AbortSignal): number {
  const key = Object.getOwnPropertySymbols(signal).find(({ description }) => description === "kDependantSignals");
  // A set of Node's own, which is no instance of Set.
  const dependants = key && (Reflect.get(signal, key) as ReadonlySet<unknown> | undefined);
  return getEventListeners(signal, "abort").length + (dependants?.size ?? 0);
}
