/** @file The grammar of an answer: of the format that it was asked for in, and of the calls that it may consist of. */
import { PrecisError } from "../errors.js";
import { JsonRules } from "../grammar/json-rules.js";
import { ProgramBuilder, type Program } from "../grammar/program.js";
import { compileSchema, SchemaCompiler } from "../grammar/schema-compiler.js";
import type { JsonSchema } from "../grammar/schema.js";
import { CALL_CLOSE, CALL_OPEN } from "./call-format.js";
import { NO_PARAMETERS, type ToolDefinition, type ToolSetup } from "./tool.js";

/** The form of an answer: any text (default), some JSON object, or JSON that fits a schema. */
export type ResponseFormat = { type: "text" } | { type: "json_object" } | { type: "json_schema"; schema: JsonSchema };

/** Most calls of one answer. */
const MAX_CALLS = 16;

/**
 * What an answer is held to from its first token on; undefined where it is free.
 * @throws SCHEMA_UNSUPPORTED, OPTION_INVALID
 */
export function answerGrammar(format: ResponseFormat | undefined, setup: ToolSetup | undefined): Program | undefined {
  const builder = new ProgramBuilder();
  const mayCall = setup !== undefined;
  const mustCall = mayCall && setup.choice !== "auto";
  const content = mustCall ? undefined : formatted(builder, format);
  if (!mustCall && content === undefined) return undefined;
  const calls = mayCall ? [callList(builder, setup)] : [];
  return builder.build(builder.choice([...(content === undefined ? [] : [content]), ...calls]));
}

/** The grammar of one call after its opening marker, for answers that are free until they call. */
export function callGrammar(setup: ToolSetup): Program {
  const builder = new ProgramBuilder();
  return builder.build(callBody(builder, setup, builder.end));
}

/**
 * Checks that answers can be held to a format and to the tools' schemas, before any work is done.
 * @throws SCHEMA_UNSUPPORTED, OPTION_INVALID
 */
export function checkAnswerFormat(format: ResponseFormat | undefined, setup?: ToolSetup): void {
  answerGrammar(format, undefined);
  if (setup !== undefined) callGrammar(setup);
}

function formatted(builder: ProgramBuilder, format: ResponseFormat | undefined): number | undefined {
  switch (format?.type) {
    case undefined:
    case "text":
      return undefined;
    case "json_object":
      return new SchemaCompiler(builder, { type: "object" }).compile(builder.end);
    case "json_schema":
      return new SchemaCompiler(builder, format.schema).compile(builder.end);
    default:
      throw new PrecisError("OPTION_INVALID", "There is no such response format.", {
        value: format,
        nextStep: 'Use { type: "text" }, { type: "json_object" } or { type: "json_schema", schema }.',
      });
  }
}

/** One call, or several. */
function callList(builder: ProgramBuilder, setup: ToolSetup): number {
  const call = builder.rule(builder.text(CALL_OPEN, callBody(builder, setup, builder.end)));
  const other = builder.rule(builder.optional("\n", builder.call(call, builder.end)));
  const more = builder.loop(other, { min: 0, max: setup.parallel ? MAX_CALLS - 1 : 0 }, builder.end);
  return builder.call(call, more);
}

/** A call from behind its opening marker to its closing one. */
function callBody(builder: ProgramBuilder, { tools, choice }: ToolSetup, next: number): number {
  const rules = new JsonRules(builder);
  const close = builder.text("}", builder.optional("\n", builder.text(CALL_CLOSE, next)));
  const offered = typeof choice === "object" ? tools.filter(({ name }) => name === choice.name) : tools;
  const places = offered.map((tool) => {
    const given = callArguments(builder, tool, close);
    return builder.text(JSON.stringify(tool.name), rules.comma(builder.text('"arguments"', rules.colon(given))));
  });
  return builder.optional("\n", builder.text('{"name"', rules.colon(builder.choice(places))));
}

function callArguments(builder: ProgramBuilder, tool: ToolDefinition, next: number): number {
  return new SchemaCompiler(builder, argumentSchema(tool)).compile(next);
}

/** What the arguments of a tool are held to. */
function argumentSchema({ name, parameters = NO_PARAMETERS, strict }: ToolDefinition): JsonSchema {
  try {
    compileSchema(parameters);
    return parameters;
  } catch (error) {
    if (strict === true && error instanceof PrecisError) {
      throw new PrecisError(error.code, `Of the tool "${name}": ${error.message}`, {
        value: error.value,
        cause: error,
      });
    }
    return { type: "object" };
  }
}
