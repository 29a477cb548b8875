/** @file Says no to what is not built, where an answer without it would look like one with it. */
import { notSupported } from "../api-error.js";
import type { UnbuiltParams } from "../schemas/common.js";

/** @throws ApiError 400 for tools, or for a format other than text */
export function refuseUnbuilt(params: UnbuiltParams, format?: { param: string; type: string | undefined }): void {
  const say = "Describe what you need in a message, and read the answer as text.";
  for (const param of ["tools", "functions"] as const) {
    if ((params[param]?.length ?? 0) > 0) throw notSupported(param, "Tool calling", say);
  }
  if (format?.type !== undefined && format.type !== "text") {
    throw notSupported(format.param, `The format "${format.type}"`, "Ask for JSON in a message, and check what comes.");
  }
}
