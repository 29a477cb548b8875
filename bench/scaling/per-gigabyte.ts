/** @file How many sessions a gigabyte holds, in the engine and in a store. */
import { PRECISIONS, type Costs, type Precision } from "./costs.js";

const GIGABYTE = 1e9;

/** Sessions of one method and length per gigabyte (10⁹ bytes). */
export interface PerGigabyte {
  method: string;
  tokens: number;
  /** As keys and values of `--memory`. */
  engine: number;
  /** As a snapshot and its record, without earlier states. */
  stored: Readonly<Record<Precision, number>>;
}

/** For each method and measured length. */
export function sessionsPerGigabyte({ methods, recordBytes }: Costs): PerGigabyte[] {
  return methods.flatMap(({ method, points }) =>
    points.map(({ tokens, bytes, snapshots }) => {
      const stored = PRECISIONS.map((precision) => [
        precision,
        Math.floor(GIGABYTE / (snapshots[precision] + recordBytes)),
      ]);
      return {
        method,
        tokens,
        engine: Math.floor(GIGABYTE / bytes),
        stored: Object.fromEntries(stored) as Record<Precision, number>,
      };
    }),
  );
}
