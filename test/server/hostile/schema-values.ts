/** @file Values that fit a JSON schema, and values that nearly do. */
import { fc } from "../../property.js";
import { hostileSchema, hostileText, hostileValue } from "./hostile-values.js";

/** The parts of JSON Schema that our descriptions use. */
export interface Schema {
  type?: string | string[];
  anyOf?: Schema[];
  enum?: unknown[];
  pattern?: string;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  minItems?: number;
  maxItems?: number;
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema | boolean;
}

/** Words that mean something to the server, so that what fits also gets somewhere. */
const KNOWN: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  model: fc.constantFrom<unknown>("tiny", "tiny", "other"),
  role: fc.constantFrom("user", "user", "user", "user", "system", "assistant", "tool", "developer", "x"),
  content: fc.oneof(
    { weight: 6, arbitrary: fc.string({ minLength: 1, maxLength: 12 }) },
    { weight: 1, arbitrary: fc.constantFrom<unknown>(null, "", [{ type: "text", text: "a" }], [{ type: "image" }]) },
    { weight: 1, arbitrary: hostileText },
  ),
  method: fc.constantFrom("full", "ccm-concat", "ccm-merge", "streaming", "none", "rmt", "sentinel", "nope"),
  adapter: fc.constantFrom("ccm", "other", ""),
  type: fc.constantFrom("text", "function", "json_schema", "json_object", "message", "input_text", "function_call"),
  session: fc.constantFrom<unknown>("mine", "mine", "diary", "empty", null),
  conversation: fc.constantFrom<unknown>("mine", "diary", { id: "mine" }, null),
  step: fc.constantFrom(0, 1, 1, 2, 99),
  schema: hostileSchema,
  parameters: hostileSchema,
  stop: fc.constantFrom<unknown>(
    "a",
    ["a", "b"],
    Array.from({ length: 16 }, () => "x".repeat(10_000)),
    null,
  ),
  n: fc.constantFrom<unknown>(1, 2, 16, null),
  logit_bias: fc.constantFrom<unknown>({}, null, { 5: 100 }),
  store: fc.boolean(),
};

/** A value that fits. @param name of the field, if it is one */
export function fitting(schema: Schema, name = ""): fc.Arbitrary<unknown> {
  const known = KNOWN[name];
  if (known !== undefined) return known;
  if (schema.anyOf !== undefined) return fc.oneof(...schema.anyOf.map((choice) => fitting(choice)));
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  const types = Array.isArray(schema.type) ? schema.type : [schema.type ?? "any"];
  return fc.oneof(...types.map((type) => ofType(type, schema)));
}

function ofType(type: string, schema: Schema): fc.Arbitrary<unknown> {
  const { minimum = -1e6, maximum = 1e6, minItems = 0, minLength = 0, maxLength = 30 } = schema;
  switch (type) {
    case "null":
      return fc.constant(null);
    case "boolean":
      return fc.boolean();
    case "integer":
      // Small more often than not, or hardly anything would fit the server's limits.
      return fc.oneof(fc.integer({ min: Math.max(minimum, 0), max: Math.max(minimum, 0) + 4 }), fc.constant(maximum));
    case "number":
      return fc.double({ min: minimum, max: maximum, noNaN: true });
    case "string": {
      if (schema.pattern !== undefined) return fc.constantFrom("a", "mine", "Z9_-", "f".repeat(64));
      const short = fc.string({ minLength, maxLength: Math.min(maxLength, 30), unit: "binary" });
      return fc.oneof({ weight: 4, arbitrary: short }, { weight: 1, arbitrary: hostileText });
    }
    case "array":
      return fc.array(fitting(schema.items ?? {}), { minLength: minItems, maxLength: minItems + 2 });
    case "object":
      return objectOf(schema);
    default:
      return fc.jsonValue({ maxDepth: 2 });
  }
}

function objectOf({ properties = {}, required = [], additionalProperties }: Schema): fc.Arbitrary<object> {
  // Each field may be one that is refused, so most objects have few: else hardly any would get far.
  const fields = Object.entries(properties).map(([name, field]): [string, fc.Arbitrary<unknown>] => {
    const value = fitting(field, name);
    if (required.includes(name)) return [name, value];
    return [name, fc.oneof({ weight: 9, arbitrary: fc.constant(undefined) }, { weight: 2, arbitrary: value })];
  });
  const declared = fc.record(Object.fromEntries(fields));
  if (typeof additionalProperties !== "object") return declared;
  const others = fc.dictionary(fc.string({ maxLength: 12 }), fitting(additionalProperties), { maxKeys: 3 });
  return fc.tuple(declared, others).map(([fixed, free]) => ({ ...free, ...fixed }));
}

type Place = readonly (string | number)[];

function placesOf(value: unknown, at: Place = []): Place[] {
  if (typeof value !== "object" || value === null) return [at];
  const inside = Object.entries(value).flatMap(([name, inner]) =>
    placesOf(inner, [...at, Array.isArray(value) ? Number(name) : name]),
  );
  return [at, ...inside.slice(0, 200)];
}

function replaced(value: unknown, [first, ...rest]: Place, by: unknown): unknown {
  if (first === undefined) return by;
  if (Array.isArray(value)) return value.map((item, i) => (i === first ? replaced(item, rest, by) : item));
  const fields = (value ?? {}) as Record<string, unknown>;
  return { ...fields, [first]: replaced(fields[first], rest, by) };
}

/** A value that fits but for up to three places: replaced, or given a field that it should not have. */
export function nearlyFitting(schema: Schema): fc.Arbitrary<unknown> {
  const change = fc.record({
    place: fc.nat(),
    by: hostileValue,
    adds: fc.option(hostileText, { nil: undefined, freq: 4 }),
  });
  return fc.tuple(fitting(schema), fc.array(change, { maxLength: 3 })).map(([value, changes]) =>
    changes.reduce((before, { place, by, adds }) => {
      const places = placesOf(before);
      const at = places[place % places.length] as Place;
      return replaced(before, adds === undefined ? at : [...at.slice(0, -1), adds], by);
    }, value),
  );
}
