/** @file The result of a run: medians over rounds as a table and as charts. */
import type * as ScaleModule from "../../dist/eval/report/scale.js";
import type * as SvgModule from "../../dist/eval/report/svg-file.js";
import type * as SizesModule from "../../dist/format/sizes.js";
import { median } from "../measure.js";
import type { Turn } from "./contestant.js";

/** Every turn of one contestant, round by round. */
export interface Series {
  name: string;
  ratio: number;
  rounds: Turn[][];
}

/** Everything about one run. */
export interface SentinelReport {
  machine: Record<string, string | number>;
  settings: Record<string, string | number>;
  series: Series[];
}

const root = new URL("../../../", import.meta.url);

async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`dist/${path}`, root).href)) as Module;
}

/** One contestant after one turn, the median over rounds. */
function turnOf({ rounds }: Series, turn: number): { tokens: number; rate: number; slots: number; bytes: number } {
  const turns = rounds.map((round) => round[turn] as Turn);
  const { tokens, slots, bytes } = turns[0] as Turn;
  return { tokens, rate: median(turns.map(({ tokensPerSecond }) => tokensPerSecond)), slots, bytes };
}

/** Seconds of decoding for all turns of a round. */
function secondsOf(round: readonly Turn[], turnTokens: number): number {
  return round.reduce((sum, { tokensPerSecond }) => sum + turnTokens / tokensPerSecond, 0);
}

/** Tokens per second over whole rounds, and how that compares with the first contestant, round by round. */
function overall(series: Series, first: Series, turnTokens: number): { rate: number; ratio: number } {
  const seconds = series.rounds.map((round) => secondsOf(round, turnTokens));
  const firsts = first.rounds.map((round) => secondsOf(round, turnTokens));
  const tokens = turnTokens * (series.rounds[0]?.length ?? 0);
  return {
    rate: tokens / median(seconds),
    ratio: median(firsts.map((value, round) => value / (seconds[round] as number))),
  };
}

/** The report as text: every contestant at four lengths, and all in all. */
export async function formatReport({ machine, settings, series }: SentinelReport): Promise<string> {
  const { formatBytes } = await built<typeof SizesModule>("format/sizes.js");
  const first = series[0] as Series;
  const turns = first.rounds[0]?.length ?? 0;
  const shown = [1, 2, 3, 4].map((quarter) => Math.max(1, Math.round((turns * quarter) / 4)) - 1);
  const turnTokens = Number(settings["turn"]);
  const lines = series.flatMap((one) => {
    const { rate, ratio } = overall(one, first, turnTokens);
    return [
      `${one.name}: ${rate.toFixed(1)} tokens/s over all, ${ratio.toFixed(2)} times ${first.name}`,
      ...[...new Set(shown)].map((turn) => {
        const { tokens, rate: here, slots, bytes } = turnOf(one, turn);
        const full = turnOf(first, turn).bytes;
        const saved = `${(100 * (1 - bytes / full)).toFixed(0)}% less than ${first.name}`;
        return `  at ${tokens} tokens: ${here.toFixed(1)} tokens/s, ${slots} slots, ${formatBytes(bytes)} (${saved})`;
      }),
    ];
  });
  const worst = Math.max(...series.flatMap(({ rounds }) => rounds.flat().map(({ disturbance }) => disturbance)));
  return [
    ...lines,
    `${machine["cpu"]}, ${machine["cores"]} cores, Node ${machine["node"]}; ${JSON.stringify(settings)}; ` +
      `other programs used at most ${(100 * worst).toFixed(0)}% of the CPU in a turn`,
  ].join("\n");
}

/** Charts by file name: speed, and bytes, against the length of the text. */
export async function drawPlots({ series }: SentinelReport): Promise<Map<string, string>> {
  const { linearScale } = await built<typeof ScaleModule>("eval/report/scale.js");
  const { drawChartFile } = await built<typeof SvgModule>("eval/report/svg-file.js");
  const { formatBytes } = await built<typeof SizesModule>("format/sizes.js");
  const draw = (title: string, label: string, valueOf: "rate" | "bytes", format: (tick: number) => string): string => {
    const lines = series.map((one) => ({
      name: one.name,
      points: (one.rounds[0] ?? []).map((_, turn) => {
        const found = turnOf(one, turn);
        return { x: found.tokens, y: found[valueOf] };
      }),
    }));
    const points = lines.flatMap((line) => line.points);
    const axis = (values: readonly number[]) => (range: readonly [number, number]) =>
      linearScale([0, ...values], range);
    return drawChartFile({
      title,
      x: {
        label: "tokens of the text",
        scale: axis(points.map(({ x }) => x)),
        format: (tick) => tick.toLocaleString("en"),
      },
      y: { label, scale: axis(points.map(({ y }) => y)), format },
      series: lines,
    });
  };
  return new Map([
    [
      "sentinel-speed.svg",
      draw("tokens per second along a generation (higher is better)", "tokens per second", "rate", String),
    ],
    [
      "sentinel-bytes.svg",
      draw("keys and values held along a generation (lower is better)", "bytes", "bytes", formatBytes),
    ],
  ]);
}
