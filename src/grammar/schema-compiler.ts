/** @file A JSON Schema as a grammar, whose texts are the values that fit it. */
import { JsonRules } from "./json-rules.js";
import { ProgramBuilder, type Program } from "./program.js";
import { integerBounds, lengthBounds, numberBounds } from "./schema-bounds.js";
import {
  isOfType,
  isSchema,
  isSchemaObject,
  refuseOthers,
  SCHEMA_TYPES,
  TYPE_KEYWORDS,
  typesOf,
  unsupported,
  type JsonSchema,
  type SchemaObject,
  type SchemaType,
} from "./schema.js";

/** Levels that a schema may be nested. */
const MAX_DEPTH = 64;

/** Places that a schema may refer to. */
const MAX_REFERENCES = 1000;

/** Compiles one schema; parts that repeat become rules. */
export class SchemaCompiler {
  readonly #builder: ProgramBuilder;
  readonly #rules: JsonRules;
  readonly #root: JsonSchema;
  readonly #references = new Map<string, number>();
  /** References that are yet to be compiled; one by one, so that long chains of them need no deep recursion. */
  readonly #pending: { rule: number; reference: string; target: JsonSchema }[] = [];

  constructor(builder: ProgramBuilder, root: JsonSchema) {
    this.#builder = builder;
    this.#rules = new JsonRules(builder);
    this.#root = root;
  }

  /** A value that fits the whole schema. @throws SCHEMA_UNSUPPORTED */
  compile(next: number): number {
    const start = this.#value(this.#root, "", 0, next);
    for (let due = this.#pending.pop(); due !== undefined; due = this.#pending.pop()) {
      this.#builder.define(due.rule, this.#value(due.target, due.reference, 0, this.#builder.end));
    }
    return start;
  }

  #value(schema: unknown, path: string, depth: number, next: number): number {
    if (depth > MAX_DEPTH) throw unsupported(path, `is nested more than ${MAX_DEPTH} levels`, "Use $ref.");
    if (!isSchema(schema)) throw unsupported(path, "is no schema", "Write an object with a type.");
    if (schema === false) throw unsupported(path, "allows nothing", "Leave it out.");
    if (schema === true) return this.#rules.value(next);
    if (schema["$ref"] !== undefined) return this.#reference(schema, path, next);
    if (schema["anyOf"] !== undefined) return this.#anyOf(schema, path, depth, next);
    const types = typesOf(schema, path);
    if (schema["enum"] !== undefined || "const" in schema) return this.#listed(schema, types, path, next);
    refuseOthers(schema, path, ["type", ...types.flatMap((type) => TYPE_KEYWORDS[type])]);
    if (types.length === SCHEMA_TYPES.length) return this.#rules.value(next);
    // A whole number is a number, so that both together would only be read twice.
    const distinct = types.filter((type) => type !== "integer" || !types.includes("number"));
    return this.#builder.choice(distinct.map((type) => this.#ofType(type, schema, path, depth, next)));
  }

  #reference(schema: SchemaObject, path: string, next: number): number {
    const { $ref: reference } = schema;
    refuseOthers(schema, path, ["$ref"]);
    if (typeof reference !== "string" || !reference.startsWith("#")) {
      throw unsupported(
        path,
        `refers to ${JSON.stringify(reference)}`,
        'Refer to a place in it, such as "#/$defs/item".',
      );
    }
    let rule = this.#references.get(reference);
    if (rule === undefined) {
      if (this.#references.size >= MAX_REFERENCES) {
        throw unsupported(path, `is one of more than ${MAX_REFERENCES} references`, "Make the schema smaller.");
      }
      rule = this.#builder.declare();
      this.#references.set(reference, rule);
      this.#pending.push({ rule, reference, target: this.#resolve(reference, path) });
    }
    return this.#builder.call(rule, next);
  }

  /** What a JSON pointer leads to. */
  #resolve(reference: string, path: string): JsonSchema {
    let place: unknown = this.#root;
    for (const part of reference.slice(1).split("/").slice(1)) {
      const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
      place =
        typeof place === "object" && place !== null && Object.hasOwn(place, name)
          ? (place as SchemaObject)[name]
          : undefined;
    }
    if (isSchema(place)) return place;
    throw unsupported(path, `refers to "${reference}", where there is no schema`, "Define it under $defs.");
  }

  #anyOf(schema: SchemaObject, path: string, depth: number, next: number): number {
    const { anyOf: options } = schema;
    refuseOthers(schema, path, ["anyOf"]);
    if (!Array.isArray(options) || options.length === 0) {
      throw unsupported(path, "has an anyOf that is no list", "List schemas.");
    }
    return this.#builder.choice(
      options.map((option, index) => this.#value(option, `${path}/anyOf/${index}`, depth + 1, next)),
    );
  }

  /** Values that a schema lists, as JSON.stringify writes them. */
  #listed(schema: SchemaObject, types: readonly SchemaType[], path: string, next: number): number {
    refuseOthers(schema, path, ["enum", "const", "type"]);
    const { enum: list } = schema;
    if (list !== undefined && (!Array.isArray(list) || list.length === 0)) {
      throw unsupported(path, "has an enum that is no list", "List values.");
    }
    const values = "const" in schema ? [schema["const"]] : (list as unknown[]);
    const texts = new Set((list as unknown[] | undefined)?.map((value) => JSON.stringify(value)));
    const fitting = values.filter(
      (value) =>
        (list === undefined || texts.has(JSON.stringify(value))) && types.some((type) => isOfType(value, type)),
    );
    if (fitting.length > 0)
      return this.#builder.oneOf(
        fitting.map((value) => JSON.stringify(value)),
        next,
      );
    throw unsupported(path, "lists no value of its type", "Correct the list or the type.");
  }

  #ofType(type: SchemaType, schema: SchemaObject, path: string, depth: number, next: number): number {
    switch (type) {
      case "object":
        return this.#object(schema, path, depth, next);
      case "array": {
        const { items = true } = schema;
        const item = this.#value(items, `${path}/items`, depth + 1, this.#builder.end);
        return this.#rules.array(this.#builder.rule(item), lengthBounds(schema, "minItems", "maxItems", path), next);
      }
      case "string":
        return this.#rules.string(next, lengthBounds(schema, "minLength", "maxLength", path));
      case "integer":
        return this.#rules.integer(next, integerBounds(schema, path));
      case "number":
        return this.#number(schema, path, next);
      case "boolean":
        return this.#builder.oneOf(["true", "false"], next);
      case "null":
        return this.#builder.text("null", next);
    }
  }

  #number(schema: SchemaObject, path: string, next: number): number {
    const range = numberBounds(schema, path);
    const isAny = range.min === -Infinity && range.max === Infinity;
    return isAny ? this.#rules.number(next) : this.#rules.numberBetween(next, range);
  }

  /** Named properties in the schema's order; or, where it names none, any keys that it allows. */
  #object(schema: SchemaObject, path: string, depth: number, next: number): number {
    const { properties = {}, required = [], additionalProperties: others = true } = schema;
    if (!isSchemaObject(properties)) throw unsupported(path, "has properties of no known form", "Write an object.");
    if (!Array.isArray(required) || required.some((name) => typeof name !== "string")) {
      throw unsupported(path, 'has a "required" that is no list of names', "List names.");
    }
    const named = new Map<string, unknown>(Object.entries(properties));
    for (const name of required as string[]) {
      if (named.has(name)) continue;
      if (others === false) throw unsupported(path, `requires "${name}", and does not allow it`, "Describe it.");
      named.set(name, others);
    }
    if (named.size === 0 && others !== false) {
      const value = this.#value(others, `${path}/additionalProperties`, depth + 1, this.#builder.end);
      return this.#rules.map(this.#builder.rule(value), next);
    }
    const entries = [...named].map(([name, value]) => ({
      name,
      rule: this.#builder.rule(this.#value(value, `${path}/properties/${name}`, depth + 1, this.#builder.end)),
      optional: !required.includes(name),
    }));
    return this.#builder.text("{", this.#members(entries, this.#builder.text("}", next)));
  }

  /** Members in order, optional ones or not, with commas between those that there are. */
  #members(entries: readonly { name: string; rule: number; optional: boolean }[], next: number): number {
    // After the last member it makes no difference whether there was one before.
    let [first, later] = [next, next];
    for (const { name, rule, optional } of entries.toReversed()) {
      const value = this.#rules.colon(this.#builder.call(rule, later));
      const member = this.#builder.text(JSON.stringify(name), value);
      const following = this.#rules.comma(member);
      [first, later] = optional
        ? [this.#builder.choice([member, first]), this.#builder.choice([following, later])]
        : [member, following];
    }
    return first;
  }
}

/**
 * The grammar of a schema.
 * @throws SCHEMA_UNSUPPORTED naming the place and the keyword that cannot be held to
 */
export function compileSchema(schema: JsonSchema): Program {
  const builder = new ProgramBuilder();
  return builder.build(new SchemaCompiler(builder, schema).compile(builder.end));
}
