// @ts-check
/** @file The AI SDK with our provider: a session is made by the first call that names it. */
import { streamText } from "ai";
import { createPrecis } from "precis-ai-sdk";
import { apiKey, baseURL, model, programArguments } from "./settings.mjs";

const [session, prompt] = programArguments("examples/clients/ai-sdk.mjs SESSION TEXT", 2);
const precis = createPrecis({ baseURL, apiKey });

const { textStream, providerMetadata } = streamText({
  model: precis(model),
  prompt: /** @type {string} */ (prompt),
  maxOutputTokens: 60,
  providerOptions: { precis: { session: /** @type {string} */ (session) } },
  onError: ({ error }) => {
    throw error;
  },
});
for await (const text of textStream) process.stdout.write(text);

/** @type {import("precis-ai-sdk").PrecisMetadata} */
const { memory } = (await providerMetadata)?.["precis"] ?? {};
console.log(`\nmemory: ${memory?.steps} steps, ${memory?.bytes} bytes; a full cache: ${memory?.fullCacheBytes}`);
