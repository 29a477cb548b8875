/** @file Bodies of requests: their type, their bytes, and JSON that is no trap. */
import { ApiError } from "./api-error.js";
import type { Request } from "./context.js";
import { joinBytes } from "./join-bytes.js";

/** Most levels of lists and objects in each other: far more than any request needs, far less than a stack holds. */
const MAX_DEPTH = 128;

const [QUOTE, BACKSLASH] = ['"', "\\"].map((sign) => sign.charCodeAt(0));
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [..."[]{}"].map((sign) => sign.charCodeAt(0));

/**
 * The body of a request as it was sent.
 * @param type that its header must name
 * @throws ApiError 415 for another type or a compressed body, 400 where the client stopped in the middle, 413 and 503 for
 * more bytes than may be held
 */
export async function readBytes(c: Request, type: string): Promise<Uint8Array> {
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
  return collect(c);
}

/** All bytes of a body, each piece counted as it comes. */
async function collect(c: Request): Promise<Uint8Array> {
  const room = c.get("bodyRoom");
  // A reader that is left alone rather than cancelled, so that a refusal still reaches a client in the middle of sending.
  const reader = c.req.raw.body?.getReader();
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = await reader?.read().catch((error: unknown) => {
      throw bodyIncomplete(error);
    });
    if (piece?.value === undefined) break;
    room.take(piece.value.byteLength);
    pieces.push(piece.value);
  }
  return joinBytes(pieces);
}

/** The 400 of a body that ends before it should. */
function bodyIncomplete(cause: unknown): ApiError {
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
