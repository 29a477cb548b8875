/** @file The API's description in OpenAPI 3.1, made of the routes and the schemas that check their requests. */
import { z } from "zod";
import type { Route } from "./routes/table.js";

type Json = Record<string, unknown>;

const SNAPSHOT: Json = { "application/octet-stream": { schema: { type: "string", format: "binary" } } };

const ERROR_SCHEMA: Json = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["message", "type", "param", "code", "next_step"],
      properties: {
        message: { type: "string" },
        type: { type: "string" },
        param: { type: ["string", "null"] },
        code: { type: "string" },
        next_step: { type: "string", description: "What can be done about it." },
      },
    },
  },
};

function jsonSchema(schema: z.ZodType): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as Json;
  return rest;
}

function parameters({ path, query }: Route): Json[] {
  const inPath = [...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
  const { properties = {}, required = [] } =
    query === undefined ? {} : (jsonSchema(query) as Json & { required?: string[] });
  const inQuery = Object.entries(properties as Json).map(([name, schema]) => ({
    name,
    in: "query",
    required: (required as string[]).includes(name),
    schema,
  }));
  return [...inPath, ...inQuery];
}

function answers({ gives, status = 200 }: Route): Json {
  const json = { "application/json": { schema: { type: "object" } } };
  const events = { ...json, "text/event-stream": { schema: { type: "string" } } };
  const content = gives === "snapshot" ? SNAPSHOT : gives === "events" ? events : json;
  return {
    [String(status)]: { description: "Success.", content },
    default: {
      description: "An error.",
      content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
    },
  };
}

function operation(route: Route): Json {
  const { tag, summary, body, takes } = route;
  const content = takes === undefined ? body && { "application/json": { schema: jsonSchema(body) } } : SNAPSHOT;
  return {
    tags: [tag],
    summary,
    parameters: parameters(route),
    ...(content === undefined ? {} : { requestBody: { required: true, content } }),
    responses: answers(route),
  };
}

/** The document. */
export function describeApi(
  routes: readonly Route[],
  { version, secured }: { version: string; secured: boolean },
): Json {
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    const path = route.path.replace(/:(\w+)(\{[^}]*\})?/g, "{$1}");
    paths[path] = { ...paths[path], [route.method]: operation(route) };
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Precis",
      version,
      description: "An OpenAI-compatible server whose sessions remember in a few kilobytes.",
    },
    paths,
    components: {
      schemas: { Error: ERROR_SCHEMA },
      ...(secured ? { securitySchemes: { key: { type: "http", scheme: "bearer" } } } : {}),
    },
    ...(secured ? { security: [{ key: [] }] } : {}),
  };
}
