/** @file Requests about sessions. */
import { z } from "zod";
import type { MessageParam } from "../messages.js";
import { memorySetup, messages, sessionId } from "./common.js";
import type { MemorySetup } from "../models.js";

/** Makes a session. */
export interface CreateSessionRequest extends MemorySetup {
  id?: string | undefined;
  model?: string | undefined;
  metadata?: Record<string, string> | undefined;
}

const metadata: z.ZodType<Record<string, string>> = z
  .record(z.string().max(64), z.string().max(512))
  .refine((fields) => Object.keys(fields).length <= 16, "at most 16 fields");

/** Its schema. */
export const createSessionRequest: z.ZodType<CreateSessionRequest> = z.strictObject({
  id: sessionId.optional().describe("Default: a random one."),
  model: z.string().optional(),
  metadata: metadata.optional().describe("Up to 16 short texts of yours."),
  ...(memorySetup as z.ZodObject).shape,
}) as z.ZodType<CreateSessionRequest>;

/** Takes context into a session: messages, or texts; a time step each. */
export interface AppendRequest {
  messages?: MessageParam[] | undefined;
  text?: string | string[] | undefined;
}

/** Its schema. */
export const appendRequest: z.ZodType<AppendRequest> = z
  .strictObject({
    messages: messages.optional().describe("Messages, a time step each."),
    text: z
      .union([z.string().min(1), z.array(z.string().min(1)).min(1).max(4096)])
      .optional()
      .describe("Texts, a time step each."),
  })
  .refine((body) => (body.messages === undefined) !== (body.text === undefined), "give either messages or text");

/** Copies a session. */
export interface ForkRequest {
  id?: string | undefined;
  step?: number | undefined;
}

/** Its schema. */
export const forkRequest: z.ZodType<ForkRequest> = z.strictObject({
  id: sessionId.optional().describe("Default: a random one."),
  step: z.int().min(1).optional().describe("A step of `checkpoints`; default: the present one."),
});

/** Goes back to an earlier step. */
export interface RewindRequest {
  step: number;
}

/** Its schema. */
export const rewindRequest: z.ZodType<RewindRequest> = z.strictObject({
  step: z.int().min(0).describe("0, or a step of `checkpoints`."),
});

/** Asks what a session holds. */
export interface SessionMemoryQuery {
  step?: number | undefined;
}

/** Its schema. */
export const sessionMemoryQuery: z.ZodType<SessionMemoryQuery> = z.object({
  step: z.coerce.number().int().min(0).optional().describe("0, or a step of `checkpoints`; default: the present one."),
}) as z.ZodType<SessionMemoryQuery>;

/** Asks how much attention a turn pays to what a session holds. */
export interface AttentionRequest {
  messages: MessageParam[];
  answer?: string | undefined;
  step?: number | undefined;
}

/** Its schema. */
export const attentionRequest: z.ZodType<AttentionRequest> = z.strictObject({
  messages: messages.describe("What is to be answered."),
  answer: z.string().min(1).optional().describe("The answer, whose tokens are then counted instead of the messages'."),
  step: z
    .int()
    .min(0)
    .optional()
    .describe("The step before the messages: 0, or one of `checkpoints`; default: the present one."),
});

/** Asks for a page of sessions. */
export interface ListSessionsQuery {
  limit: number;
  after?: string | undefined;
  order: "asc" | "desc";
}

/** Its schema. */
export const listSessionsQuery: z.ZodType<ListSessionsQuery> = z.object({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  after: sessionId.optional().describe("The last id of the page before."),
  order: z.enum(["asc", "desc"]).default("desc").describe("By the time they were made."),
}) as z.ZodType<ListSessionsQuery>;

/** Describes an imported snapshot. */
export interface ImportQuery {
  id?: string | undefined;
  model?: string | undefined;
  adapter?: string | undefined;
  span_adapter?: string | undefined;
}

/** Its schema. */
export const importQuery: z.ZodType<ImportQuery> = z.object({
  id: sessionId.optional(),
  model: z.string().optional(),
  adapter: z.string().max(128).optional().describe("The adapter that it was made with; default: whichever fits."),
  span_adapter: z.string().max(128).optional().describe("The sentinel adapter that it was made with beside that."),
});
