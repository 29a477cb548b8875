/** @file Answers to what never becomes a request: broken HTTP, headers without end, clients that fall silent. */
import type { Server, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { ApiError, describeFailure } from "./api-error.js";

/** How long clients get to read why before the connection is cut. */
const LAST_WORDS_MS = 500;

const REASONS: Readonly<Record<string, ConstructorParameters<typeof ApiError>>> = {
  HPE_HEADER_OVERFLOW: [
    431,
    "headers_too_large",
    "The headers are too large.",
    { nextStep: "Send fewer or shorter ones." },
  ],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [
    413,
    "body_too_large",
    "The chunk extensions are too large.",
    { nextStep: "Send none." },
  ],
  ERR_HTTP_REQUEST_TIMEOUT: [
    408,
    "request_timeout",
    "The request came too slowly.",
    { nextStep: "Send it again, in one go." },
  ],
};

/** The answer to a request that could not be read. */
export function refuseUnreadable(error: unknown): Response {
  const { status, body } = describeFailure(unreadable(error));
  return Response.json(body, { status });
}

function unreadable(error: unknown): ApiError {
  const { code = "" } = error as NodeJS.ErrnoException;
  const known = REASONS[code];
  if (known !== undefined) return new ApiError(...known);
  return new ApiError(400, "invalid_http", "This is no HTTP request that the server understands.", {
    nextStep: "Send HTTP/1.1 with a host, a plain path and one length.",
    cause: error,
  });
}

/** Makes a server answer in words, in the form of all its errors, where Node would send a bare status. */
export function answerBrokenRequests(server: Server): void {
  const answers = new WeakMap<Duplex, ServerResponse>();
  server.on("request", ({ socket }, response) => answers.set(socket, response));
  server.on("clientError", (error, socket) => {
    const answer = answers.get(socket);
    const isMidAnswer = answer?.headersSent === true && !answer.writableFinished;
    // What is written into an answer that has begun would become part of it.
    if (!socket.writable || isMidAnswer) return socket.destroy(error);
    const { status, body } = describeFailure(unreadable(error));
    const text = JSON.stringify(body);
    const head = [
      `HTTP/1.1 ${status} Refused`,
      "content-type: application/json",
      `content-length: ${Buffer.byteLength(text)}`,
      "connection: close",
    ];
    socket.end(`${head.join("\r\n")}\r\n\r\n${text}`);
    setTimeout(() => socket.destroy(), LAST_WORDS_MS).unref();
  });
}
