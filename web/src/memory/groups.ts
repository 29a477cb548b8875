/** @file Slots together as they are told apart by people: by the steps that wrote them. */
import type { Attention, Slot } from "../api/types.js";

/** Slots that the same steps wrote. */
export interface StepGroup {
  /** First and last step; undefined where that is not known. */
  steps: readonly [number, number] | undefined;
  /** Numbers of the slots. */
  slots: number[];
  /** Share of the attention that they got, mean over layers; undefined without any. */
  share: number | undefined;
}

/** Which steps wrote a slot, as a key. */
export function stepsKey({ steps }: Slot): string {
  return steps === null ? "?" : steps.join("-");
}

/** The steps of a group, in words. */
export function stepsLabel(steps: readonly [number, number] | null | undefined): string {
  if (steps === null || steps === undefined) return "Unknown step";
  return steps[0] === steps[1] ? `Step ${steps[0]}` : `Steps ${steps[0]}–${steps[1]}`;
}

/** Slots by the steps that wrote them, in the order of their first slots. */
export function groupSlots(slots: readonly Slot[], layers: Attention["layers"] | undefined): StepGroup[] {
  const groups = new Map<string, StepGroup>();
  slots.forEach((slot, index) => {
    const key = stepsKey(slot);
    const group = groups.get(key) ?? { steps: slot.steps ?? undefined, slots: [], share: layers && 0 };
    group.slots.push(index);
    if (layers !== undefined) {
      const sum = layers.reduce((total, shares) => total + (shares[index] ?? 0), 0);
      group.share = (group.share ?? 0) + sum / layers.length;
    }
    groups.set(key, group);
  });
  return [...groups.values()];
}

/** The share at which the colour scale ends: few slots, such as attention sinks, get most, and may go beyond it. */
export function scaleTop(layers: Attention["layers"]): number {
  const shares = layers.flat().sort((a, b) => a - b);
  return Math.max(shares[Math.floor((shares.length - 1) * 0.97)] ?? 0, 1e-4);
}
