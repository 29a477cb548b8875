/** @file Bodies of requests: their type, their bytes, and JSON that is no trap. */
import type { Context } from "hono";
import { ApiError } from "./api-error.js";

/** Most levels of lists and objects in each other: far more than any request needs, far less than a stack holds. */
const MAX_DEPTH = 128;

const [QUOTE, BACKSLASH] = ['"', "\\"].map((sign) => sign.charCodeAt(0));
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [..."[]{}"].map((sign) => sign.charCodeAt(0));

/**
 * The body of a request as it was sent.
 * @param type that its header must name
 * @throws ApiError 415 for another type or a compressed body, 400 where the client stopped in the middle
 */
export async function readBytes(c: Context, type: string): Promise<Uint8Array> {
  const [given = ""] = (c.req.header("content-type") ?? "").split(";");
  if (given.trim().toLowerCase() !== type) {
    throw new ApiError(415, "unsupported_media_type", `The body must be ${type}.`, {
      nextStep: `Send the header content-type: ${type}.`,
    });
  }
  // What is small as it comes may be endless once it is unpacked.
  const encoding = (c.req.header("content-encoding") ?? "identity").trim().toLowerCase();
  if (encoding !== "identity") {
    throw new ApiError(415, "unsupported_content_encoding", "The body must not be compressed.", {
      nextStep: "Send it as it is, without the header content-encoding.",
    });
  }
  try {
    return new Uint8Array(await c.req.arrayBuffer());
  } catch (error) {
    throw bodyIncomplete(error);
  }
}

/** The 400 of a body that ends before it should. */
export function bodyIncomplete(cause: unknown): ApiError {
  return new ApiError(400, "body_incomplete", "The body ended before all of it had come.", {
    nextStep: "Send the request again.",
    cause,
  });
}

/** @throws ApiError 400 for what is not JSON in UTF-8, or too deep */
export function parseJson(bytes: Uint8Array): unknown {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    // Before it is parsed, as what follows may walk through it by recursion.
    refuseDepth(text);
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new ApiError(400, "invalid_json", `The body is not valid JSON: ${reason.slice(0, 200)}.`, {
      nextStep: "Send JSON in UTF-8.",
      cause: error,
    });
  }
}

function refuseDepth(text: string): void {
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) quoted = !quoted;
    else if (quoted) i += code === BACKSLASH ? 1 : 0;
    else if (code === OPEN_LIST || code === OPEN_OBJECT) depth++;
    else if (code === CLOSE_LIST || code === CLOSE_OBJECT) depth--;
    if (depth <= MAX_DEPTH) continue;
    throw new ApiError(400, "json_too_deep", `The body has more than ${MAX_DEPTH} lists and objects in each other.`, {
      nextStep: "Send something flatter; schemas can use $ref.",
    });
  }
}
