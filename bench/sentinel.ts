/** @file `npm run bench:sentinel`: speed and bytes along a long generation, with sentinel spans and with a full cache. */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { loadPrecisModel } from "./engines/precis.js";
import { Patience } from "./quiet.js";
import { Contestant, SPAN_TOKENS, type ContestantSpec, type Turn } from "./sentinel/contestant.js";
import { drawPlots, formatReport, type SentinelReport, type Series } from "./sentinel/report.js";
import { prepareSentinelAdapter } from "./weights/prepare.js";
import { SMOLLM2_135M } from "./weights/shape.js";
import { SPECIAL_TOKENS } from "./weights/vocabulary.js";

const HELP = `Usage: npm run bench:sentinel -- [options]
  --tokens N      tokens to write (default 4000)
  --turn N        tokens that a contestant writes before the next one's turn (default 250)
  --ratios LIST   shares of the cache to do without, besides 0 (default 0.5,0.9)
  --rounds N      how often all of that is measured (default 3)
  --threads N     CPU threads (default: as many as cores)
  --dtype TYPE    int4 (default), int8, fp16 or fp32
  --patience N    seconds to wait for other programs to leave the machine alone (default 120)
  --json FILE     write all measurements too; "-" prints them instead of the text
  --plots DIR     write sentinel-speed.svg and sentinel-bytes.svg there`;

/** Tokens read before the first turn. */
const PROMPT_TOKENS = 64;

/** Bytes of the vocabulary come after the special tokens; what follows are whole words. */
const FIRST_WORD = SPECIAL_TOKENS.length + 256;

/** The n-th word of an arbitrary text. */
function wordAt(index: number): number {
  return FIRST_WORD + ((index * 7919) % (SMOLLM2_135M.vocabulary - FIRST_WORD));
}

interface RoundSettings {
  tokens: number;
  turn: number;
  patience: Patience;
}

/** One round: everybody begins anew and writes the whole text, turn by turn. */
async function measureRound(
  specs: readonly ContestantSpec[],
  { tokens, turn, patience }: RoundSettings,
): Promise<Turn[][]> {
  const prompt = Array.from({ length: PROMPT_TOKENS }, (_, index) => wordAt(index));
  const contestants: Contestant[] = [];
  const found: Turn[][] = specs.map(() => []);
  try {
    for (const spec of specs) contestants.push(await Contestant.begin(spec, prompt));
    for (let number = 0; number * turn < tokens; number++) {
      for (let place = 0; place < contestants.length; place++) {
        const index = (place + number) % contestants.length;
        await patience.awaitQuiet();
        const measured = await (contestants[index] as Contestant).write(wordAt(PROMPT_TOKENS + number), turn);
        (found[index] as Turn[]).push(measured);
      }
      const rates = found.map((turns, index) => `${specs[index]?.name} ${turns.at(-1)?.tokensPerSecond.toFixed(1)}`);
      process.stderr.write(`${(number + 1) * turn} of ${tokens}: ${rates.join(", ")} tokens/s\n`);
    }
  } finally {
    for (const contestant of contestants) await contestant.dispose();
  }
  return found;
}

function isWeightType(value: string): value is "int4" | "int8" | "fp16" | "fp32" {
  return ["int4", "int8", "fp16", "fp32"].includes(value);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      tokens: { type: "string", default: "4000" },
      turn: { type: "string", default: "250" },
      ratios: { type: "string", default: "0.5,0.9" },
      rounds: { type: "string", default: "3" },
      threads: { type: "string", default: String(availableParallelism()) },
      dtype: { type: "string", default: "int4" },
      patience: { type: "string", default: "120" },
      json: { type: "string" },
      plots: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help === true) {
    console.log(HELP);
    return;
  }
  const { dtype } = values;
  if (!isWeightType(dtype)) throw new Error(`--dtype ${dtype}: use int4, int8, fp16 or fp32.`);
  const [tokens, turn, threads] = [Number(values.tokens), Number(values.turn), Number(values.threads)];
  const settings = { tokens, turn, patience: new Patience(Number(values.patience)) };
  const adapter = prepareSentinelAdapter();
  // An adapter changes the graph of the model that it joins, so the full cache has a model of its own.
  const plain = await loadPrecisModel({ dtype, threads });
  const adapted = await loadPrecisModel({ dtype, threads });
  try {
    const specs: ContestantSpec[] = [
      { name: "full cache", ratio: 0, model: plain, adapter: undefined },
      ...values.ratios
        .split(",")
        .map(Number)
        .map((ratio) => ({ name: `sentinel ${ratio}`, ratio, model: adapted, adapter })),
    ];
    // The first runs of a model are slow.
    await measureRound(specs, { ...settings, tokens: 64, turn: 64 });
    const series: Series[] = specs.map(({ name, ratio }) => ({ name, ratio, rounds: [] }));
    for (let round = 0; round < Number(values.rounds); round++) {
      const found = await measureRound(specs, settings);
      for (const [index, turns] of found.entries()) series[index]?.rounds.push(turns);
    }
    const report: SentinelReport = {
      machine: { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: availableParallelism(), node: process.version },
      settings: { tokens, turn, threads, dtype, prompt: PROMPT_TOKENS, span: SPAN_TOKENS },
      series,
    };
    if (values.plots !== undefined) {
      mkdirSync(values.plots, { recursive: true });
      for (const [name, text] of await drawPlots(report)) writeFileSync(join(values.plots, name), text);
    }
    const json = JSON.stringify(report, null, 2);
    if (values.json === "-") console.log(json);
    else {
      if (values.json !== undefined) writeFileSync(values.json, json);
      console.log(await formatReport(report));
    }
  } finally {
    await plain.dispose();
    await adapted.dispose();
  }
}

await main();
