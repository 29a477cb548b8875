/** @file `npm run bench:soak`: a real server under load for minutes. Errors, memory, times and throughput. */
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { ROOT } from "./library.js";
import { soak, type SoakSettings } from "./soak/measure.js";
import { formatReport } from "./soak/report.js";

const HELP = `Usage: npm run bench:soak -- [options]
  --minutes N      how long streams talk (default 10)
  --sessions N     live sessions (default 500)
  --streams N      answers at once (default 20)
  --tokens N       tokens of an answer (default 48)
  --rounds N       comparisons with one request at a time (default 3)
  --model DIR      (default models/precis-28m)
  --dtype TYPE     how weights are held (default fp32, as precis serve)
  --method NAME    memory of the sessions (default: the adapter's)
  --adapter NAME   adapter of the sessions (default: the server's)
  --memory SIZE    keys and values that the server holds at once (default 250MB: most sessions wait in the store)
  --checkpoints N  earlier states kept per session (default 2)
  --seed N         of what is said to whom (default 1)
  --json FILE      write everything measured too; "-" prints it instead of the table

Ends with code 1 if there were errors.`;

/** Characters of a message at most. */
const LONGEST_TEXT = 240;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "10" },
      sessions: { type: "string", default: "500" },
      streams: { type: "string", default: "20" },
      tokens: { type: "string", default: "48" },
      rounds: { type: "string", default: "3" },
      model: { type: "string", default: "models/precis-28m" },
      dtype: { type: "string", default: "fp32" },
      method: { type: "string" },
      adapter: { type: "string" },
      memory: { type: "string", default: "250MB" },
      checkpoints: { type: "string", default: "2" },
      seed: { type: "string", default: "1" },
      json: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const { model, dtype, method, adapter, memory, checkpoints, streams } = values;
  const file = new URL("examples/long-conversation.json", ROOT);
  const { messages } = JSON.parse(readFileSync(file, "utf8")) as { messages: { content: string }[] };
  const settings: SoakSettings = {
    minutes: Number(values.minutes),
    sessions: Number(values.sessions),
    streams: Number(streams),
    maxTokens: Number(values.tokens),
    rounds: Number(values.rounds),
    serve: Object.entries({ model, dtype, memory, checkpoints, concurrency: streams, queue: streams }).flatMap(
      ([name, value]) => [`--${name}`, value],
    ),
    setup: { ...(method === undefined ? {} : { method }), ...(adapter === undefined ? {} : { adapter }) },
    texts: messages.map(({ content }) => content.slice(0, LONGEST_TEXT)),
    seed: Number(values.seed),
  };
  const report = await soak(ROOT, settings, (text) => console.error(text));
  const json = JSON.stringify({ settings: { ...settings, texts: undefined }, ...report }, null, 1);
  if (values.json === "-") console.log(json);
  else {
    if (values.json !== undefined) writeFileSync(values.json, json);
    console.log(await formatReport(report));
  }
  if (report.errors > 0) process.exitCode = 1;
}

await main();
