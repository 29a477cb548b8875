// @ts-check
/** @file The openai package and responses: an id names the memory after a response, and the next one goes on from there. */
import { OpenAI } from "openai";
import { apiKey, baseURL, model, programArguments } from "./settings.mjs";

const [text, previous] = programArguments("examples/clients/openai-responses.mjs TEXT [ID]", 1);
const client = new OpenAI({ baseURL, apiKey });

const stream = client.responses.stream({
  model,
  input: /** @type {string} */ (text),
  max_output_tokens: 60,
  ...(previous === undefined ? {} : { previous_response_id: previous }),
});
for await (const event of stream) {
  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
}
const { id, usage } = await stream.finalResponse();
console.log(`\n${usage?.input_tokens_details.cached_tokens} of ${usage?.input_tokens} tokens were in memory already`);
console.log(`go on with: node examples/clients/openai-responses.mjs "…" ${id}`);
