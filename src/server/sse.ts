/** @file Server-sent events: answers that arrive piece by piece. */
import { describeFailure } from "./api-error.js";

/** Sends one event; objects as JSON. */
export type SendEvent = (data: unknown, event?: string) => void;

const HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // Proxies such as nginx would collect the pieces otherwise.
  "x-accel-buffering": "no",
};

/**
 * A response that streams what `produce` sends. A failure after the first byte becomes an event with an `error` field, as
 * there is no status to set any more.
 * @param hooks.onLeave called when the client goes away
 * @param hooks.onFailure called with what `produce` throws
 */
export function sseResponse(
  produce: (send: SendEvent) => Promise<void>,
  hooks: { onLeave: () => void; onFailure: (error: unknown) => void },
): Response {
  const encoder = new TextEncoder();
  let open = true;
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      const send: SendEvent = (data, event) => {
        if (!open) return;
        const payload = typeof data === "string" ? data : JSON.stringify(data);
        controller.enqueue(encoder.encode(`${event === undefined ? "" : `event: ${event}\n`}data: ${payload}\n\n`));
      };
      const run = async (): Promise<void> => {
        try {
          await produce(send);
        } catch (error) {
          hooks.onFailure(error);
          send(describeFailure(error).body, "error");
        }
        if (open) controller.close();
        open = false;
      };
      void run();
    },
    cancel() {
      if (!open) return;
      open = false;
      hooks.onLeave();
    },
  });
  return new Response(stream, { headers: HEADERS });
}
