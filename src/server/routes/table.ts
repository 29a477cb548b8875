/** @file Every route: who answers it, and what the API's description says of it. */
import type { z } from "zod";
import type { Request, Services } from "../context.js";
import { chatRequest } from "../schemas/chat.js";
import { completionRequest, embeddingsRequest } from "../schemas/completions.js";
import { responsesRequest } from "../schemas/responses.js";
import {
  appendRequest,
  attentionRequest,
  createSessionRequest,
  forkRequest,
  importQuery,
  listSessionsQuery,
  rewindRequest,
  sessionMemoryQuery,
} from "../schemas/sessions.js";
import { chatCompletions } from "./chat.js";
import { completions } from "./completions.js";
import { embeddings } from "./embeddings.js";
import { getModel, listModels } from "./models.js";
import { createResponse, deleteResponse, getResponse } from "./responses.js";
import { sessionAttention, sessionMemory } from "./session-memory.js";
import {
  appendToSession,
  createSession,
  deleteSession,
  exportSession,
  forkSession,
  getSession,
  importSession,
  listSessions,
  rewindSession,
} from "./sessions.js";

/** One route under `/v1`. */
export interface Route {
  method: "get" | "post" | "delete";
  /** In Hono's form. */
  path: string;
  tag: string;
  summary: string;
  handler: (c: Request, services: Services) => Promise<Response>;
  /** Schema of a JSON body. */
  body?: z.ZodType;
  /** Schema of the query. */
  query?: z.ZodType;
  /** What a body is that is not JSON. */
  takes?: "snapshot";
  /** What an answer is that is not JSON. */
  gives?: "snapshot" | "events";
  /** Status of success; default 200. */
  status?: number;
}

const tagged = (tag: string, routes: readonly Omit<Route, "tag">[]): Route[] =>
  routes.map((route) => ({ tag, ...route }));

/** All of them. */
export const ROUTES: readonly Route[] = [
  ...tagged("Models", [
    { method: "get", path: "/v1/models", summary: "List models, their adapters and methods.", handler: listModels },
    { method: "get", path: "/v1/models/:id{.+}", summary: "Show a model.", handler: getModel },
  ]),
  ...tagged("Answers", [
    {
      method: "post",
      path: "/v1/chat/completions",
      summary:
        "Answer messages: a session's new turn, or a conversation sent in full, of which only what is new is read.",
      handler: chatCompletions,
      body: chatRequest,
      gives: "events",
    },
    {
      method: "post",
      path: "/v1/responses",
      summary: "Answer an input on top of an earlier response, a session, or nothing.",
      handler: createResponse,
      body: responsesRequest,
      gives: "events",
    },
    { method: "get", path: "/v1/responses/:id", summary: "Show a stored response.", handler: getResponse },
    { method: "delete", path: "/v1/responses/:id", summary: "Forget a response.", handler: deleteResponse },
    {
      method: "post",
      path: "/v1/completions",
      summary: "Go on with a text, without a chat template.",
      handler: completions,
      body: completionRequest,
      gives: "events",
    },
    {
      method: "post",
      path: "/v1/embeddings",
      summary: "Mean last hidden states of the base model, of length 1; not a trained embedder.",
      handler: embeddings,
      body: embeddingsRequest,
    },
  ]),
  ...tagged("Sessions", [
    {
      method: "post",
      path: "/v1/sessions",
      summary: "Make a session.",
      handler: createSession,
      body: createSessionRequest,
      status: 201,
    },
    { method: "get", path: "/v1/sessions", summary: "List sessions.", handler: listSessions, query: listSessionsQuery },
    {
      method: "post",
      path: "/v1/sessions/import",
      summary: "Make a session of a snapshot.",
      handler: importSession,
      query: importQuery,
      takes: "snapshot",
      status: 201,
    },
    { method: "get", path: "/v1/sessions/:id", summary: "Show a session and what it holds.", handler: getSession },
    { method: "delete", path: "/v1/sessions/:id", summary: "Delete a session.", handler: deleteSession },
    {
      method: "post",
      path: "/v1/sessions/:id/append",
      summary: "Take in messages or texts, a time step each.",
      handler: appendToSession,
      body: appendRequest,
    },
    {
      method: "post",
      path: "/v1/sessions/:id/fork",
      summary: "Copy a session, as it is or was.",
      handler: forkSession,
      body: forkRequest,
      status: 201,
    },
    {
      method: "post",
      path: "/v1/sessions/:id/rewind",
      summary: "Go back to an earlier step.",
      handler: rewindSession,
      body: rewindRequest,
    },
    {
      method: "get",
      path: "/v1/sessions/:id/memory",
      summary: "Show the slots that a session holds: of each, the steps that wrote it and the tokens it stands for.",
      handler: sessionMemory,
      query: sessionMemoryQuery,
    },
    {
      method: "post",
      path: "/v1/sessions/:id/attention",
      summary: "Show how much attention a turn pays to each slot, layer by layer. Nothing is remembered.",
      handler: sessionAttention,
      body: attentionRequest,
    },
    {
      method: "get",
      path: "/v1/sessions/:id/snapshot",
      summary: "Export a session's memory as bytes.",
      handler: exportSession,
      gives: "snapshot",
    },
  ]),
];
