/** @file Errors of the server as the AI SDK's. */
import { APICallError } from "@ai-sdk/provider";
import type { LanguageModelV3StreamPart } from "@ai-sdk/provider";
import { z } from "zod";

/** The body of an error. */
export const errorBody: z.ZodType<{ error: { message: string; code?: string | null | undefined } }> = z.object({
  error: z.looseObject({ message: z.string(), code: z.string().nullish() }),
});

/** The code of a failed call, such as `"session_not_found"`; undefined for any other error. */
export function errorCode(error: unknown): string | undefined {
  if (!APICallError.isInstance(error)) return undefined;
  const { success, data } = errorBody.safeParse(error.data);
  return success ? (data.error.code ?? undefined) : undefined;
}

/** Makes the failures that a server tells in the middle of a stream errors like those before one. */
export function failingStream(
  call: { url: string; body: unknown },
  headers: Record<string, string> | undefined,
): TransformStream<LanguageModelV3StreamPart, LanguageModelV3StreamPart> {
  return new TransformStream({
    transform(part, controller) {
      const told = part.type === "error" ? errorBody.safeParse({ error: part.error }) : undefined;
      if (told?.success !== true) return controller.enqueue(part);
      const { url, body: requestBodyValues } = call;
      const { message } = told.data.error;
      const details = { data: told.data, responseHeaders: headers, isRetryable: false };
      controller.enqueue({ type: "error", error: new APICallError({ message, url, requestBodyValues, ...details }) });
    },
  });
}
