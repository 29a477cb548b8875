/** @file Seeded choices. A draw is named by keys, so that the n-th one can be made without those before it. */
import { createHash } from "node:crypto";
import { seededRandom } from "../runtime/sampler.js";

/** A 32-bit hash of a name, the same on every machine. */
export function stableHash(...keys: readonly (string | number)[]): number {
  return createHash("sha256").update(keys.join("\u0000")).digest().readUInt32LE(0);
}

/** Reproducible random choices. */
export class SeededRandom {
  readonly #next: () => number;

  /** @param keys what the choices are for, such as a seed, a purpose and an index */
  constructor(...keys: readonly (string | number)[]) {
    this.#next = seededRandom(stableHash(...keys));
  }

  /** A number in [0, 1). */
  next(): number {
    return this.#next();
  }

  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.#next() * (high - low + 1));
  }

  /** True with this probability. */
  chance(probability: number): boolean {
    return this.#next() < probability;
  }

  /** One of `items`, which must not be empty. */
  pick<Item>(items: readonly Item[]): Item {
    return items[Math.floor(this.#next() * items.length)] as Item;
  }

  /** The index of a weight, with probability in proportion to it. */
  weighted(weights: readonly number[]): number {
    let left = this.#next() * weights.reduce((sum, weight) => sum + weight, 0);
    // Rounding may leave a trace after the last one, so zero weights at the end must not be reached.
    let chosen = 0;
    for (const [index, weight] of weights.entries()) {
      if (weight <= 0) continue;
      chosen = index;
      left -= weight;
      if (left < 0) break;
    }
    return chosen;
  }

  /** A shuffled copy. */
  shuffle<Item>(items: readonly Item[]): Item[] {
    return this.sample(items, items.length);
  }

  /** Up to `count` different places of `items`, in random order. */
  sample<Item>(items: readonly Item[], count: number): Item[] {
    // Only the chosen places are moved, so a few out of many cost little.
    const moved = new Map<number, number>();
    const length = Math.min(count, items.length);
    return Array.from({ length }, (_, index) => {
      const other = this.between(index, items.length - 1);
      const chosen = moved.get(other) ?? other;
      moved.set(other, moved.get(index) ?? index);
      return items[chosen] as Item;
    });
  }
}
