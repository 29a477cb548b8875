/** @file The positions of a session's slots: rotating them elsewhere, and keeping them inside what the model was made for. */
import { PrecisError } from "../errors.js";
import { effectiveLayerType } from "../models/decoder-io.js";
import type { RotaryConfig } from "../models/rotary.js";
import type { MemorySession } from "./session.js";

/** Rotates every slot to its index, so that positions start again at the number of slots. */
export function renumberSlots(session: MemorySession): void {
  const { row } = session;
  const rotary = rotaryOfLayers(session);
  for (let slot = 0; slot < row.length; slot++) row.moveTo(slot, slot, rotary);
  session.position = row.length;
}

/** Rotates one slot to another position. */
export function moveSlot(session: MemorySession, slot: number, position: number): void {
  session.row.moveTo(slot, position, rotaryOfLayers(session));
}

/** Rotates the slots from `first` on, and what comes next, to positions that are lower by `distance`. */
export function moveSlotsBack(session: MemorySession, first: number, distance: number): void {
  const { row } = session;
  const rotary = rotaryOfLayers(session);
  for (let slot = first; slot < row.length; slot++) {
    row.moveTo(slot, (row.positions[slot] as number) - distance, rotary);
  }
  session.position -= distance;
}

/**
 * Keeps positions inside what the model was made for while `count` more come; compressed memories start again from their
 * slot count.
 * @throws CONTEXT_OVERFLOW if even that leaves no room
 */
export function ensurePositions(session: MemorySession, count: number): void {
  const { row, position, behavior } = session;
  const { maxPositions } = session.runner.config;
  if (behavior.unlimited === true || position + count <= maxPositions) return;
  if (row.length + count <= maxPositions && row.length < position) {
    renumberSlots(session);
    return;
  }
  throw new PrecisError(
    "CONTEXT_OVERFLOW",
    `The model takes ${maxPositions} positions; ${row.length} slots are held and ${count} tokens come.`,
    {
      value: row.length + count,
      nextStep: "Append in smaller steps with a compressing method, or use sliding-window or streaming.",
    },
  );
}

function rotaryOfLayers({ runner: { config } }: MemorySession): RotaryConfig[] {
  return config.layerTypes.map((_, layer) => config.rotary[effectiveLayerType(config, layer)]);
}
