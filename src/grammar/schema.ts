/** @file The part of JSON Schema that answers can be held to: that of OpenAI's strict mode. Whatever else is in a schema is refused. */
import { PrecisError } from "../errors.js";

/** A JSON Schema. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

/** A JSON Schema with keywords. */
export type SchemaObject = Exclude<JsonSchema, boolean>;

/** Keywords that only describe. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  "title",
  "description",
  "default",
  "example",
  "examples",
  "deprecated",
  "readOnly",
  "writeOnly",
  "$schema",
  "$id",
  "$comment",
  "$defs",
  "definitions",
  "strict",
]);

/** The types of JSON values. */
export const SCHEMA_TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"] as const;

/** See {@link SCHEMA_TYPES}. */
export type SchemaType = (typeof SCHEMA_TYPES)[number];

/** The keywords of each type; a schema without a type that has one of them means that type. */
export const TYPE_KEYWORDS: Readonly<Record<SchemaType, readonly string[]>> = {
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "minItems", "maxItems"],
  string: ["minLength", "maxLength"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  boolean: [],
  null: [],
};

/**
 * A SCHEMA_UNSUPPORTED error.
 * @param path where in the schema; "" for all of it
 * @param what what is wrong there, as the rest of a sentence
 */
export function unsupported(path: string, what: string, nextStep: string): PrecisError {
  const at = path === "" ? "The schema" : `The schema's ${path}`;
  return new PrecisError("SCHEMA_UNSUPPORTED", `${at} ${what}.`, { value: path, nextStep });
}

/** Whether a value is a schema with keywords. */
export function isSchemaObject(value: unknown): value is SchemaObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether a value is a schema. */
export function isSchema(value: unknown): value is JsonSchema {
  return typeof value === "boolean" || isSchemaObject(value);
}

/** Whether a JSON value is of a type. */
export function isOfType(value: unknown, type: SchemaType): boolean {
  if (value === null) return type === "null";
  if (Array.isArray(value)) return type === "array";
  if (typeof value === "number") return type === "number" || (type === "integer" && Number.isInteger(value));
  return typeof value === type;
}

/**
 * The types that a schema names, or that its keywords are about; without either, all.
 * @throws SCHEMA_UNSUPPORTED for a type that does not exist, or an empty list
 */
export function typesOf(schema: SchemaObject, path: string): readonly SchemaType[] {
  const { type } = schema;
  if (type === undefined) {
    const meant = SCHEMA_TYPES.filter((name) => TYPE_KEYWORDS[name].some((keyword) => schema[keyword] !== undefined));
    return meant.length === 0 ? SCHEMA_TYPES : meant;
  }
  const names = (Array.isArray(type) ? type : [type]) as unknown[];
  for (const name of names) {
    if (SCHEMA_TYPES.includes(name as SchemaType)) continue;
    throw unsupported(
      path,
      `has the type ${JSON.stringify(name)}, which does not exist`,
      `Types: ${SCHEMA_TYPES.join(", ")}.`,
    );
  }
  if (names.length === 0) throw unsupported(path, "has no type", "Name one.");
  return [...new Set(names as SchemaType[])];
}

/**
 * Refuses keywords other than these and those that only describe.
 * @throws SCHEMA_UNSUPPORTED
 */
export function refuseOthers(schema: SchemaObject, path: string, known: readonly string[]): void {
  for (const [keyword, value] of Object.entries(schema)) {
    if (value === undefined || ANNOTATIONS.has(keyword) || known.includes(keyword)) continue;
    const nextStep =
      keyword === "oneOf"
        ? "Use anyOf."
        : "Leave it out, and say it in the description; what comes is then for you to check.";
    throw unsupported(path, `has "${keyword}", which answers cannot be held to here`, nextStep);
  }
}
