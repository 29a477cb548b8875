/** @file The ranges that a schema allows: of lengths, of whole numbers, and of numbers with fractions. */
import type { Bounds, NumberBounds } from "./json-rules.js";
import { unsupported, type SchemaObject } from "./schema.js";

/** Whole numbers are written below it, and above its negative. */
const MOST_WHOLE = 10 ** 15;

/** Bounds of numbers with fractions: with their digits behind the point, they are exact. */
const MOST_BOUND = 10 ** 9;

/**
 * How long something may be; without keywords, any length.
 * @param least the keyword for the smallest length
 * @param most the keyword for the largest
 * @throws SCHEMA_UNSUPPORTED for what is no range of counts
 */
export function lengthBounds(schema: SchemaObject, least: string, most: string, path: string): Bounds {
  const { [least]: min = 0, [most]: max = Infinity } = schema;
  const isCount = (value: unknown): value is number =>
    value === Infinity || (Number.isSafeInteger(value) && (value as number) >= 0);
  if (isCount(min) && isCount(max) && min <= max && min !== Infinity) return { min, max };
  throw unsupported(path, `has no range from ${least} to ${most}`, "Use whole numbers, the smaller one first.");
}

/**
 * Whole numbers that a schema allows.
 * @throws SCHEMA_UNSUPPORTED where there is none of at most 15 digits
 */
export function integerBounds(schema: SchemaObject, path: string): Bounds {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = writtenBounds(schema, path);
  const min = Math.max(Math.ceil(minimum), Math.floor(exclusiveMinimum) + 1);
  const max = Math.min(Math.floor(maximum), Math.ceil(exclusiveMaximum) - 1);
  if (min <= max && min < MOST_WHOLE && max > -MOST_WHOLE) return { min, max };
  throw unsupported(path, "allows no whole number of 15 digits", "Correct its bounds.");
}

/**
 * Numbers that a schema allows; from -Infinity to Infinity without keywords.
 * @throws SCHEMA_UNSUPPORTED where there is none, or for bounds that are not whole or too large
 */
export function numberBounds(schema: SchemaObject, path: string): NumberBounds {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = writtenBounds(schema, path);
  const [min, max] = [Math.max(minimum, exclusiveMinimum), Math.min(maximum, exclusiveMaximum)];
  const [above, below] = [
    exclusiveMinimum >= minimum && min !== -Infinity,
    exclusiveMaximum <= maximum && max !== Infinity,
  ];
  for (const bound of [min, max]) {
    if (Math.abs(bound) === Infinity || (Number.isInteger(bound) && Math.abs(bound) <= MOST_BOUND)) continue;
    throw unsupported(path, `bounds numbers by ${bound}`, `Use whole bounds up to ${MOST_BOUND}.`);
  }
  if (min < max || (min === max && !above && !below)) return { min, max, above, below };
  throw unsupported(path, "allows no number", "Correct its bounds.");
}

/** The bounds as they are written, and infinite ones for those that are not. */
function writtenBounds(
  schema: SchemaObject,
  path: string,
): Record<"minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", number> {
  const bound = (keyword: string, otherwise: number): number => {
    const value = schema[keyword] ?? otherwise;
    if (typeof value === "number") return value;
    throw unsupported(path, `has a "${keyword}" that is no number`, "Write a number.");
  };
  return {
    minimum: bound("minimum", -Infinity),
    maximum: bound("maximum", Infinity),
    exclusiveMinimum: bound("exclusiveMinimum", -Infinity),
    exclusiveMaximum: bound("exclusiveMaximum", Infinity),
  };
}
