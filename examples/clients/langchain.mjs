// @ts-check
/** @file LangChain.js with its OpenAI model: the session keeps the history, so the chain needs no message history of its own. */
import { StringOutputParser } from "@langchain/core/output_parsers";
import { ChatPromptTemplate } from "@langchain/core/prompts";
import { ChatOpenAI } from "@langchain/openai";
import { apiKey, baseURL, describeMemory, model, programArguments } from "./settings.mjs";

const [session, text] = programArguments("examples/clients/langchain.mjs SESSION TEXT", 2);
const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };

const made = await fetch(`${baseURL}/sessions`, {
  method: "POST",
  headers,
  body: JSON.stringify({ id: session, model }),
});
// 409: it is there from an earlier run, and goes on.
if (!made.ok && made.status !== 409) throw new Error(`The session could not be made: ${await made.text()}`);

const chat = new ChatOpenAI({
  model,
  apiKey,
  configuration: { baseURL },
  maxTokens: 60,
  // Fields that LangChain does not know are sent as they are.
  modelKwargs: { session },
});
const chain = ChatPromptTemplate.fromMessages([["user", "{text}"]])
  .pipe(chat)
  .pipe(new StringOutputParser());
for await (const piece of await chain.stream({ text })) process.stdout.write(piece);

const response = await fetch(`${baseURL}/sessions/${session}`, { headers });
const { memory } = /** @type {{ memory: Parameters<typeof describeMemory>[0] }} */ (await response.json());
console.log(`\n${describeMemory(memory)}`);
