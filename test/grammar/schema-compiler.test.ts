/** @file Texts under a schema: whatever the model would like to write, what comes parses and validates. */
import { Ajv } from "ajv";
import { fc } from "../property.js";
import { beforeAll, describe, expect, test } from "vitest";
import { Automaton } from "#precis/grammar/automaton.js";
import { compileSchema } from "#precis/grammar/schema-compiler.js";
import type { JsonSchema } from "#precis/grammar/schema.js";
import { openWriter, type Writer } from "./writer.js";

let writer: Writer;
beforeAll(async () => {
  writer = await openWriter();
});

function isValid(schema: JsonSchema, value: unknown): boolean {
  return new Ajv({ strict: false, strictNumbers: true }).validate(schema, value);
}

/** Whether a text is one that the schema's grammar accepts. */
function accepts(schema: JsonSchema, text: string): boolean {
  const automaton = new Automaton(compileSchema(schema));
  return automaton.read(automaton.start, new TextEncoder().encode(text))?.accepting ?? false;
}

const bounds = (least: string, most: string, from: fc.Arbitrary<number>): fc.Arbitrary<object> =>
  fc.tuple(from, fc.nat(6), fc.constantFrom("none", "least", "most", "both")).map(([min, more, which]) => ({
    ...(which === "least" || which === "both" ? { [least]: min } : {}),
    ...(which === "most" || which === "both" ? { [most]: min + more } : {}),
  }));

interface Range {
  exclusiveMinimum?: number;
  maximum?: number;
}

const name = fc.oneof(fc.constantFrom("name", "item count", 'a"b', "größe", "\n"), fc.string({ maxLength: 4 }));

/** Schemas of the kinds that are supported; references lead to two definitions, one of which is recursive. */
const { schema: schemas } = fc.letrec<{ schema: JsonSchema; object: JsonSchema }>((tie) => ({
  schema: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom<JsonSchema>({ type: "boolean" }, { type: "null" }, { type: "number" }, { $ref: "#/$defs/tree" }),
    fc.constantFrom<JsonSchema>(
      { type: ["string", "null"] },
      { type: ["integer", "number"] },
      { $ref: "#/$defs/short" },
    ),
    bounds("minLength", "maxLength", fc.nat(9)).map((length) => ({ type: "string", ...length })),
    bounds("minimum", "maximum", fc.integer({ min: -5000, max: 5000 })).map((range) => ({ type: "integer", ...range })),
    bounds("exclusiveMinimum", "maximum", fc.integer({ min: -5, max: 5 })).map(({ maximum, ...range }: Range) => ({
      type: "number",
      ...range,
      ...(maximum === undefined ? {} : { maximum: maximum + 1 }),
    })),
    fc
      .uniqueArray(fc.jsonValue(), { minLength: 1, maxLength: 4, selector: (value) => JSON.stringify(value) })
      .map((values) => ({ enum: values })),
    fc.jsonValue().map((value) => ({ const: value })),
    fc
      .tuple(tie("schema"), bounds("minItems", "maxItems", fc.nat(3)))
      .map(([items, length]) => ({ type: "array", items, ...length })),
    fc.array(tie("schema"), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
    tie("object"),
  ),
  object: fc
    .tuple(fc.dictionary(name, tie("schema"), { maxKeys: 4, noNullPrototype: true }), fc.infiniteStream(fc.boolean()))
    .map(([properties, drawn]) => ({
      type: "object",
      properties,
      required: Object.keys(properties).filter(() => drawn.next().value),
      additionalProperties: false,
    })),
}));

const $defs = {
  tree: {
    type: "object",
    properties: {
      value: { type: "integer" },
      children: { type: "array", items: { $ref: "#/$defs/tree" } },
    },
    required: ["value", "children"],
    additionalProperties: false,
  },
  short: { type: "string", minLength: 1, maxLength: 3 },
};

describe("what chance writes", () => {
  test("fits any schema", () => {
    let complete = 0;
    let runs = 0;
    fc.assert(
      fc.property(schemas, fc.nat(), (inner, seed) => {
        const schema = rooted(inner);
        const written = writer.write(compileSchema(schema), seed);
        runs++;
        if (!written.complete) return;
        complete++;
        const value: unknown = JSON.parse(written.text);
        expect(isValid(schema, value), written.text).toBe(true);
      }),
      { seed: 5, numRuns: 30 },
    );
    expect(complete / runs).toBeGreaterThan(0.95);
  });

  test("is a text that its grammar accepts, also written with another tokenization", () => {
    const program = compileSchema({ type: "array", items: { type: "string" }, minItems: 2 });
    for (let seed = 0; seed < 6; seed++) {
      const { text } = writer.write(program, seed);
      const automaton = new Automaton(program);
      expect(automaton.read(automaton.start, new TextEncoder().encode(text))?.accepting).toBe(true);
    }
  });

  test("has as many characters as the schema says, however many bytes they take", () => {
    const program = compileSchema({ type: "string", minLength: 30, maxLength: 40 });
    for (let seed = 0; seed < 20; seed++) {
      const value = JSON.parse(writer.write(program, seed).text) as string;
      expect([...value].length).toBeGreaterThanOrEqual(30);
      expect([...value].length).toBeLessThanOrEqual(40);
    }
  });
});

function rooted(inner: JsonSchema): { [keyword: string]: unknown } {
  return { type: "object", properties: { root: inner }, required: ["root"], additionalProperties: false, $defs };
}

describe("a whole number", () => {
  test("is one of its range, at all edges", () => {
    const edge = fc.constantFrom(
      -1000,
      -999,
      -101,
      -100,
      -99,
      -10,
      -9,
      -1,
      0,
      1,
      9,
      10,
      11,
      99,
      100,
      109,
      110,
      999,
      1000,
    );
    fc.assert(
      fc.property(edge, edge, (a, b) => {
        const [minimum, maximum] = [Math.min(a, b), Math.max(a, b)];
        const automaton = new Automaton(compileSchema({ type: "integer", minimum, maximum }));
        for (let value = -1111; value <= 1111; value++) {
          const read = automaton.read(automaton.start, new TextEncoder().encode(String(value)));
          expect(read?.accepting ?? false, `${value}`).toBe(value >= minimum && value <= maximum);
        }
      }),
      { numRuns: 20, seed: 2 },
    );
  });

  test("costs little, however many there are", () => {
    const names = Array.from({ length: 300 }, (_, index) => `field ${index}`);
    const properties = Object.fromEntries(names.map((key, index) => [key, { type: "integer", minimum: index }]));
    expect(() => compileSchema({ type: "object", properties, additionalProperties: false })).not.toThrow();
  });
});

describe("a number", () => {
  test.each([
    [{ minimum: 0, maximum: 1 }],
    [{ exclusiveMinimum: 0, exclusiveMaximum: 2 }],
    [{ minimum: -3, exclusiveMaximum: 0 }],
    [{ minimum: -12, maximum: 100 }],
    [{ exclusiveMinimum: -1 }],
    [{ maximum: -5 }],
    [{ minimum: 7, maximum: 7 }],
    [{ exclusiveMinimum: 3, minimum: 2, maximum: 4 }],
  ])("of the range %j is one of it, at all edges", (range) => {
    const schema = { type: "number", ...range };
    const automaton = new Automaton(compileSchema(schema));
    const wholes = [-101, -100, -13, -12, -11, -6, -5, -4, -3, -1, 0, 1, 2, 3, 4, 5, 7, 8, 99, 100, 101];
    for (const text of wholes.flatMap((whole) => ["", ".5", ".000001"].map((fraction) => `${whole}${fraction}`))) {
      const read = automaton.read(automaton.start, new TextEncoder().encode(text));
      expect(read?.accepting ?? false, text).toBe(isValid(schema, Number(text)));
    }
    for (let seed = 0; seed < 5; seed++) {
      const { text, complete } = writer.write(compileSchema(schema), seed);
      expect(complete && isValid(schema, JSON.parse(text)), text).toBe(true);
    }
  });
});

describe("hostile schemas", () => {
  test("of very long or very many values are compiled or refused, in little time", () => {
    const long = "x".repeat(50_000);
    expect(accepts({ enum: [`${long}a`, `${long}b`] }, `"${long}b"`)).toBe(true);
    const names = Array.from({ length: 1500 }, (_, index) => `${index}`);
    const properties = Object.fromEntries(names.map((key) => [key, { type: "null" }]));
    expect(accepts({ type: "object", properties }, '{"7":null, "1499":null}')).toBe(true);
  });

  test("that can be read in ever more ways are given up", () => {
    const branch = { type: "object", properties: { a: { $ref: "#" } }, required: ["a"] };
    const schema = { anyOf: [branch, { ...branch }, { type: "null" }] };
    expect(accepts(schema, `${'{"a":'.repeat(5)}null${"}".repeat(5)}`)).toBe(true);
    const deep = (): boolean => accepts(schema, '{"a":'.repeat(20));
    expect(deep).toThrow(expect.objectContaining({ code: "SCHEMA_UNSUPPORTED" }));
  });
});

describe("a schema", () => {
  test.each<[JsonSchema, string[], string[]]>([
    [
      { type: "integer", minimum: -3, maximum: 12 },
      ["-3", "-1", "0", "9", "10", "12"],
      ["-4", "13", "01", "-0", "1.0", ""],
    ],
    [{ type: "integer", exclusiveMinimum: 0, maximum: 250 }, ["1", "99", "250"], ["0", "251", "300", "-1"]],
    [{ type: "number" }, ["0", "-0.5", "1e5", "1.25E-07", "123456789012345"], ["01", ".5", "1.", "1e", "+1", "1e999"]],
    [{ type: "string", maxLength: 2 }, ['""', '"äß"', '"\\n\\u00e4"', '"😀😀"'], ['"abc"', '"\n"', '"\\ud83d"', "'a'"]],
    [{ enum: ["a", "ab", 1, null] }, ['"a"', '"ab"', "1", "null"], ['"b"', "2", '"a']],
    [{ type: ["string", "null"], enum: ["a", null] }, ['"a"', "null"], ['"b"']],
    [{ const: { a: [1, "x"] } }, ['{"a":[1,"x"]}'], ['{"a": [1,"x"]}']],
    [
      { type: "array", items: { type: "null" }, minItems: 1, maxItems: 2 },
      ["[null]", "[null, null]"],
      ["[]", "[null,null,null]"],
    ],
    [{ type: "array", maxItems: 0 }, ["[]"], ["[1]"]],
    [
      { properties: { a: { type: "null" }, b: { type: "null" } }, required: ["b"] },
      ['{"b":null}', '{"a": null, "b": null}'],
      ["{}", '{"a":null}', '{"b":null,"a":null}', '{"b":null,"c":1}', '{,"b":null}'],
    ],
    [{ type: "object" }, ["{}", '{"x": [1, {"y": "z"}], "": null}'], ["[]", '{"x"}', '{"x":}']],
    [{ type: "object", additionalProperties: { type: "integer" } }, ["{}", '{"a":1,"b":2}'], ['{"a":"1"}']],
    [{ type: "object", additionalProperties: false }, ["{}"], ['{"a":1}']],
    [true, ["1", '"a"', "[]", "{}", "true"], ["tru", ""]],
    [{ $ref: "#/$defs/a~1b", $defs: { "a/b": { type: "boolean" } } }, ["true", "false"], ["1"]],
  ])("%j takes and refuses what it should", (schema, good, bad) => {
    for (const text of good) expect(accepts(schema, text), text).toBe(true);
    for (const text of bad) expect(accepts(schema, text), text).toBe(false);
  });

  test.each<[string, unknown, RegExp]>([
    ["pattern", { type: "string", pattern: "^a" }, /"pattern"/],
    ["format", { properties: { at: { type: "string", format: "date" } } }, /properties\/at has "format"/],
    ["oneOf", { oneOf: [{ type: "null" }] }, /"oneOf".*Use anyOf/],
    ["allOf", { allOf: [{ type: "null" }] }, /"allOf"/],
    ["multipleOf", { type: "integer", multipleOf: 2 }, /"multipleOf"/],
    ["fractions as bounds", { type: "number", minimum: 0.5 }, /bounds numbers by 0.5.*whole bounds/],
    ["no number in its bounds", { type: "number", minimum: 1, exclusiveMaximum: 1 }, /allows no number/],
    ["whole numbers of too many digits", { type: "integer", minimum: 1e15 }, /15 digits/],
    ["uniqueItems", { type: "array", uniqueItems: true }, /"uniqueItems"/],
    ["an unknown type", { type: "date" }, /"date", which does not exist/],
    ["siblings of $ref", { $ref: "#/$defs/a", minLength: 1, $defs: { a: true } }, /"minLength"/],
    ["a reference to nothing", { $ref: "#/$defs/b" }, /no schema.*Define it/],
    ["a reference to elsewhere", { $ref: "https://example.com/s.json" }, /refers to "https/],
    ["an endless reference", { $ref: "#" }, /leads back to itself/],
    [
      "references in a circle",
      { $defs: { a: { anyOf: [{ $ref: "#/$defs/b" }] }, b: { $ref: "#/$defs/a" } }, $ref: "#/$defs/a" },
      /back to itself/,
    ],
    ["a value without end", { properties: { next: { $ref: "#" } }, required: ["next"] }, /Nothing fits/],
    ["nothing", false, /allows nothing/],
    ["no value of the type", { type: "string", enum: [1] }, /no value of its type/],
    ["a range the wrong way round", { type: "integer", minimum: 2, maximum: 1 }, /no whole number/],
    ["lengths the wrong way round", { type: "string", minLength: 2, maxLength: 1 }, /no range/],
    ["a property that is required and forbidden", { required: ["a"], additionalProperties: false }, /requires "a"/],
    ["no schema at all", 5, /is no schema/],
    ["a list of types for items", { type: "array", items: [{ type: "null" }] }, /items is no schema/],
    ["depth without end", nested(100), /nested more than/],
    ["too many values", { enum: Array.from({ length: 20_000 }, (_, i) => `${i} is a value`) }, /too large/],
  ])("with %s is refused, with its place and what to do", (_, schema, message) => {
    const compile = (): unknown => compileSchema(schema as JsonSchema);
    expect(compile).toThrow(expect.objectContaining({ code: "SCHEMA_UNSUPPORTED" }));
    expect(compile).toThrow(message);
  });
});

function nested(depth: number): JsonSchema {
  return depth === 0 ? { type: "null" } : { type: "array", items: nested(depth - 1) };
}
