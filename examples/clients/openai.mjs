// @ts-check
/** @file The openai package and a session: the server remembers, so each request has the new turn only. */
import { ConflictError, OpenAI } from "openai";
import { apiKey, baseURL, describeMemory, model, programArguments } from "./settings.mjs";

const [session, text] = programArguments("examples/clients/openai.mjs SESSION TEXT", 2);
const client = new OpenAI({ baseURL, apiKey });

try {
  await client.post("/sessions", { body: { id: session, model } });
} catch (error) {
  // It is there from an earlier run, and goes on.
  if (!(error instanceof ConflictError)) throw error;
}

const turn = {
  model,
  messages: [{ role: /** @type {const} */ ("user"), content: /** @type {string} */ (text) }],
  max_completion_tokens: 60,
  // Fields that the package does not know are sent as they are.
  session,
};
const answer = await client.chat.completions.create(turn);
console.log(answer.choices[0]?.message.content);

const { memory } = /** @type {{ memory: Parameters<typeof describeMemory>[0] }} */ (
  /** @type {unknown} */ (answer.usage)
);
console.log(describeMemory(memory));
