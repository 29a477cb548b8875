/** @file `/v1/completions`: goes on with a text as it is, without a chat template. */
import type { GenerationEvent } from "../../index.js";
import { invalidRequest, notSupported } from "../api-error.js";
import { clientSignal, readBody, streamHooks, type Request, type Services } from "../context.js";
import type { ServedModel } from "../models.js";
import { samplingOptions } from "../sampling.js";
import { completionRequest, type CompletionRequest, type TextInput } from "../schemas/completions.js";
import { freshId, nowSeconds } from "../sessions/session.js";
import { sseResponse } from "../sse.js";
import { startTurn, type Turn, type TurnOutcome } from "../turns.js";
import { completionUsage, tokenCounts, turnTimings } from "../usage.js";
import { finishName, refuseOtherModel } from "./chat.js";

/** The texts of an input, each as text or ids. */
export function inputTexts(input: TextInput): (string | number[])[] {
  if (typeof input === "string") return [input];
  return typeof input[0] === "number" ? [input as number[]] : (input as string[] | number[][]);
}

interface Logprobs {
  tokens: string[];
  token_logprobs: number[];
  top_logprobs: Record<string, number>[];
  text_offset: number[];
}

/** Answers a completion request. */
export async function completions(c: Request, services: Services): Promise<Response> {
  const body = await readBody(c, completionRequest);
  refuseUnbuiltFields(body);
  const { signal, leave } = clientSignal(c);
  const prompts = inputTexts(body.prompt);
  const [prompt] = prompts as [string | number[]];
  if (prompts.length > 1 && (body.stream === true || body.session)) {
    throw invalidRequest("prompt", "Streams and sessions take one prompt at a time.", "Send them one by one.");
  }
  const served = services.models.find(body.model);
  const session = body.session ? await services.sessions.find(c.get("namespace"), body.session) : undefined;
  if (session !== undefined) refuseOtherModel(session, body.model);
  const sampled = samplingOptions(body, services.limits, { asked: body.max_tokens, param: "max_tokens" });
  const options = { ...sampled, logprobs: body.logprobs ?? undefined };
  const start = (input: string | number[]): Turn => {
    const plain = { kind: "chat" } as const;
    const target = session ?? services.sessions.draft(c.get("namespace"), served, { method: "full" }, plain);
    const keep = session !== undefined;
    return startTurn(
      services.sessions,
      { session: target, history: [], input, options, count: body.n ?? 1, keep },
      signal,
    );
  };
  const id = freshId("cmpl");
  const frame = { id, object: "text_completion", created: nowSeconds(), model: (session?.served ?? served).id };
  if (body.stream === true) return stream(start(prompt), { frame, body, services, leave });
  const choices: object[] = [];
  const ends: TurnOutcome[] = [];
  for (const input of prompts) {
    const turn = start(input);
    const logprobs = await collectLogprobs(turn, served);
    const outcome = await turn.outcome;
    services.metrics.turn(outcome, 0);
    ends.push(outcome);
    for (const [choice, { text, reason }] of outcome.choices.entries()) {
      const seen = options.logprobs === undefined ? null : (logprobs.get(choice) ?? null);
      choices.push({ index: choices.length, text, logprobs: seen, finish_reason: finishName(reason) });
    }
  }
  return c.json({ ...frame, choices, ...summary(ends) });
}

function refuseUnbuiltFields({ echo, suffix, best_of: bestOf, n }: CompletionRequest): void {
  if (echo === true) throw notSupported("echo", "Echoing the prompt", "Put it in front of the answer yourself.");
  if (suffix) throw notSupported("suffix", "Filling a gap", "Leave suffix out.");
  if ((bestOf ?? n ?? 1) !== (n ?? 1)) throw notSupported("best_of", "best_of", "Use n, and choose yourself.");
}

/** Usage of all prompts together, and the timings of the first. */
function summary(ends: readonly TurnOutcome[]): object {
  const [first] = ends as [TurnOutcome];
  const counts = ends.map((end) => tokenCounts(end, false));
  const sum = (field: "prompt" | "generated"): number => counts.reduce((total, count) => total + count[field], 0);
  const total = { prompt: sum("prompt"), cached: 0, generated: sum("generated") };
  return { usage: completionUsage(first, total), timings: turnTimings(first, tokenCounts(first, false)) };
}

async function stream(
  turn: Turn,
  { frame, body, services, leave }: { frame: object; body: CompletionRequest; services: Services; leave: () => void },
): Promise<Response> {
  const events = turn.events[Symbol.asyncIterator]();
  let next = await events.next();
  const chunk = (choice: number, event: GenerationEvent): object | undefined => {
    const base = { index: choice, logprobs: null };
    if (event.type === "finish") {
      return { ...frame, choices: [{ ...base, text: "", finish_reason: finishName(event.reason) }] };
    }
    if (event.type !== "text-delta" || event.text === "") return undefined;
    return { ...frame, choices: [{ ...base, text: event.text, finish_reason: null }] };
  };
  return sseResponse(
    async (send) => {
      for (; next.done !== true; next = await events.next()) {
        const piece = chunk(next.value.choice, next.value.event);
        if (piece !== undefined) send(piece);
      }
      const outcome = await turn.outcome;
      services.metrics.turn(outcome, 0);
      if (body.stream_options?.include_usage === true) send({ ...frame, choices: [], ...summary([outcome]) });
      send("[DONE]");
    },
    streamHooks(services, leave),
  );
}

async function collectLogprobs(turn: Turn, { model }: ServedModel): Promise<Map<number, Logprobs>> {
  const found = new Map<number, Logprobs>();
  const textOf = (id: number): Promise<string> => model.detokenize([id]);
  for await (const { choice, event } of turn.events) {
    if (event.type !== "text-delta" || event.tokenId === undefined || event.logprob === undefined) continue;
    const seen = found.get(choice) ?? { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    found.set(choice, seen);
    seen.text_offset.push(seen.tokens.join("").length);
    seen.tokens.push(await textOf(event.tokenId));
    seen.token_logprobs.push(event.logprob);
    const top = await Promise.all(
      (event.topLogprobs ?? []).map(async ({ id, logprob }) => [await textOf(id), logprob]),
    );
    seen.top_logprobs.push(Object.fromEntries(top) as Record<string, number>);
  }
  return found;
}
