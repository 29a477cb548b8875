/** @file Which earlier states of a session are given up. */
import type { ServerLimits } from "../options.js";
import type { SessionState } from "./session.js";

/** The oldest states beyond what is kept for going back; never the present one. */
export function excessStates(
  states: readonly SessionState[],
  { checkpoints, checkpointBytes }: Pick<ServerLimits, "checkpoints" | "checkpointBytes">,
): SessionState[] {
  let bytes = 0;
  return states
    .slice(0, -1)
    .toReversed()
    .filter(({ size, written = size }, age) => (bytes += written) > checkpointBytes || age >= checkpoints);
}
