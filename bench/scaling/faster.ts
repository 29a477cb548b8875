/** @file Two measurements of the same costs as one: of each cost, the cheaper one. */
import type { CostPoint, Costs, MethodCosts } from "./costs.js";

/**
 * The cheaper of each cost, since other work on the machine only ever adds.
 * @throws RangeError where they are not of the same model, method and length
 */
export function cheaperOf(one: Costs, other: Costs): Costs {
  return {
    ...one,
    rereadRate: Math.max(one.rereadRate, other.rereadRate),
    methods: one.methods.map((method, index) => cheaperMethod(method, other.methods[index])),
  };
}

function cheaperMethod(one: MethodCosts, other: MethodCosts | undefined): MethodCosts {
  if (other === undefined || other.method !== one.method) throw new RangeError(`The other one lacks ${one.method}.`);
  return {
    ...one,
    points: one.points.map((point, index) => cheaperPoint(point, other.points[index])),
    promptRate: Math.max(one.promptRate, other.promptRate),
    answerRate: Math.max(one.answerRate, other.answerRate),
    commitMs: Math.min(one.commitMs, other.commitMs),
  };
}

function cheaperPoint(one: CostPoint, other: CostPoint | undefined): CostPoint {
  if (other === undefined || other.bytes !== one.bytes) throw new RangeError("The other one has other sizes.");
  return {
    ...one,
    saveMs: Math.min(one.saveMs, other.saveMs),
    restoreMs: Math.min(one.restoreMs, other.restoreMs),
  };
}
