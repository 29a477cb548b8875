/** @file Pieces of requests that several routes share. */
import { z } from "zod";
import type { MessageParam } from "../messages.js";
import type { MemorySetup } from "../models.js";

/** Ids of sessions: no dots, slashes or anything else that means something in a path or a store. */
export const sessionId: z.ZodType<string> = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, "use 1 to 64 letters, digits, - or _, a letter or digit first");

const part = z.looseObject({ type: z.string(), text: z.string().optional() });

/** A message. */
export const message: z.ZodType<MessageParam> = z.object({
  role: z.string().min(1).max(64).describe("system, user, assistant, or what else the chat template knows."),
  content: z
    .union([z.string(), z.array(part)])
    .nullish()
    .describe("Text, or parts of text."),
  tool_calls: z
    .array(
      z.object({
        id: z.string().max(128),
        type: z.string().optional(),
        function: z.object({ name: z.string().max(64), arguments: z.string() }).optional(),
      }),
    )
    .max(128)
    .nullish()
    .describe("Functions that an assistant's message called."),
  tool_call_id: z.string().max(128).nullish().describe("With the role tool: the call whose result this is."),
});

/** Messages of a request. */
export const messages: z.ZodType<MessageParam[]> = z.array(message).min(1).max(4096);

/** Which memory to make. */
export const memorySetup: z.ZodType<MemorySetup> = z.strictObject({
  method: z.string().max(64).optional().describe("A memory method, see `precis methods`."),
  adapter: z.string().max(128).optional().describe("Name of an adapter, see GET /v1/models."),
  span_adapter: z.string().max(128).optional().describe("A sentinel adapter, for ccm-concat or ccm-merge with spans."),
  options: z
    .record(z.string().max(64), z.union([z.number(), z.boolean(), z.string().max(256)]))
    .optional()
    .describe("Options of the method."),
});
