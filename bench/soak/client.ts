/** @file A client of the server: JSON requests, and chats whose pieces are timed as they arrive. */

/** A streamed answer as the client saw it. */
export interface StreamedAnswer {
  /** When it was asked for, and when each piece of text arrived, in milliseconds as `performance.now` counts. */
  startedAt: number;
  pieceTimes: number[];
  endedAt: number;
  text: string;
  /** Tokens of the answer, as the server counts them. */
  tokens: number;
  /** Slots that the session holds after it. */
  slots: number;
}

/** What is asked. */
export interface ChatRequest {
  session: string;
  content: string;
  maxTokens: number;
  temperature?: number;
  seed?: number;
}

interface Chunk {
  choices?: { delta: { content?: string }; finish_reason: string | null }[];
  usage?: { completion_tokens: number; memory: { slots: number } };
  error?: { message: string };
}

/** Sends and reads JSON. @throws an error with the status and body of any answer but a good one */
export async function call<Body>(url: string, method: string, body?: object): Promise<Body> {
  const response = await fetch(url, {
    method,
    ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${new URL(url).pathname}: ${response.status} ${text.slice(0, 300)}`);
  return (text === "" ? undefined : JSON.parse(text)) as Body;
}

/**
 * The data of events of a stream, as they arrive.
 * @throws an error if the stream ends within an event
 */
export async function* eventsOf(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of stream) {
    const events = (rest + decoder.decode(bytes, { stream: true })).split("\n\n");
    rest = events.pop() as string;
    for (const event of events) {
      const data = event.split("\n").flatMap((line) => (line.startsWith("data: ") ? [line.slice(6)] : []));
      if (data.length > 0) yield data.join("\n");
    }
  }
  if (rest !== "") throw new Error("The stream ended within an event.");
}

/** Asks and reads the answer to its end. @throws an error for anything but a whole answer of `maxTokens` */
export async function chat(url: string, request: ChatRequest): Promise<StreamedAnswer> {
  const { session, content, maxTokens, temperature = 0, seed } = request;
  const answer: StreamedAnswer = {
    startedAt: performance.now(),
    pieceTimes: [],
    endedAt: 0,
    text: "",
    tokens: 0,
    slots: 0,
  };
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      session,
      messages: [{ role: "user", content }],
      stream: true,
      stream_options: { include_usage: true },
      max_completion_tokens: maxTokens,
      ignore_eos: true,
      temperature,
      seed,
    }),
  });
  if (!response.ok || response.body === null) {
    throw new Error(`chat: ${response.status} ${(await response.text()).slice(0, 300)}`);
  }
  let [reason, done]: [string | null, boolean] = [null, false];
  for await (const data of eventsOf(response.body)) {
    if (data === "[DONE]") {
      done = true;
      continue;
    }
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error !== undefined) throw new Error(`chat: ${chunk.error.message}`);
    const [choice] = chunk.choices ?? [];
    const piece = choice?.delta.content ?? "";
    if (piece !== "") answer.pieceTimes.push(performance.now());
    answer.text += piece;
    reason = choice?.finish_reason ?? reason;
    answer.tokens = chunk.usage?.completion_tokens ?? answer.tokens;
    answer.slots = chunk.usage?.memory.slots ?? answer.slots;
  }
  answer.endedAt = performance.now();
  if (!done || reason !== "length" || answer.tokens !== maxTokens) {
    throw new Error(
      `chat: ended with ${reason} after ${answer.tokens} of ${maxTokens} tokens${done ? "" : ", cut off"}`,
    );
  }
  return answer;
}
