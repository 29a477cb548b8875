/** @file `npm run profile [-- FILE…]`: where the time of ONNX Runtime goes, in given profiles or in fresh ones of Precis. */
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { PrecisEngine } from "./engines/precis.js";
import { formatProfile, summarizeProfile } from "./profile-summary.js";
import { tokenSource } from "./tasks.js";
import { engineCache } from "./weights/prepare.js";

const HELP = `Usage: npm run profile -- [FILE…] [options]
  FILE            profiles that ONNX Runtime wrote (enableProfiling); without any, Precis is run and profiled
  --by-shape      tell matrix products apart by their sizes
  --dtype TYPE    fp32, fp16, int8 or int4 (default)
  --prompt N      prompt tokens of each session (default 1024)
  --sessions N    sessions decoded together (default 1)
  --tokens N      tokens decoded (default 32)
  --threads N     threads (default: as many as cores)`;

/** Runs Precis with profiling on; the engine writes the files when the model is disposed. */
async function record(sizes: { prompt: number; sessions: number; tokens: number; threads: number; dtype: string }) {
  const folder = join(engineCache(), "profiles");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const dtypes = ["fp32", "fp16", "int8", "int4"] as const;
  const dtype = dtypes.find((name) => name === sizes.dtype);
  if (dtype === undefined) throw new Error(`"${sizes.dtype}" is not one of ${dtypes.join(", ")}.`);
  {
    const memory = { method: "full", options: {}, stepTokens: 64 };
    await using engine = await PrecisEngine.load({
      dtype,
      threads: sizes.threads,
      profilePrefix: join(folder, "run"),
      memory,
    });
    const ids = tokenSource(20260726);
    const prompts = Array.from({ length: sizes.sessions }, () => ids(sizes.prompt));
    await engine.generate(prompts, sizes.tokens);
  }
  return readdirSync(folder).map((file) => join(folder, file));
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      "by-shape": { type: "boolean", default: false },
      dtype: { type: "string", default: "int4" },
      prompt: { type: "string", default: "1024" },
      sessions: { type: "string", default: "1" },
      tokens: { type: "string", default: "32" },
      threads: { type: "string", default: String(availableParallelism()) },
      help: { type: "boolean" },
    },
  });
  if (values.help === true) {
    console.log(HELP);
    return;
  }
  const sizes = {
    prompt: Number(values.prompt),
    sessions: Number(values.sessions),
    tokens: Number(values.tokens),
    threads: Number(values.threads),
    dtype: values.dtype,
  };
  const files = positionals.length > 0 ? positionals : await record(sizes);
  for (const file of files) {
    console.log(`${basename(file)}\n${formatProfile(summarizeProfile(file, { byShape: values["by-shape"] }))}\n`);
  }
}

await main();
