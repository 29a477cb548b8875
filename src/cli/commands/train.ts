/** @file `precis train`: learn a compression adapter, or an ordinary LoRA, on top of a frozen model. */
import { join } from "node:path";
import { Command } from "commander";
import { writeLossPlot } from "../../train/loss-plot.js";
import type { MetricsLine } from "../../train/run-directory.js";
import { runTraining } from "../../train/run-training.js";
import { addTrainOptions, type TrainFlags } from "../train/flags.js";
import { planRun } from "../train/plan.js";

function progressLine(line: MetricsLine, { steps, duration }: TrainFlags): string {
  const total = duration ?? (steps * line.seconds) / line.step;
  const left = Math.max(0, Math.round(total - line.seconds));
  const minutes = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  const distance = line.distillLoss === undefined ? "" : `  KL ${line.distillLoss.toFixed(4)}`;
  const evaluated = line.evalLoss === undefined ? "" : `  held-out ${line.evalLoss.toFixed(4)}`;
  const length = line.gradientNorm?.toFixed(2) ?? `skipped (out of range with a loss scale of ${line.lossScale})`;
  const step = duration === undefined ? `${line.step}/${steps}` : `${line.step}`;
  return `step ${step}  loss ${line.loss.toFixed(4)}${distance}${evaluated}  |g| ${length}  lr ${line.learningRate.toExponential(1)}  ${Math.round(line.tokensPerSecond)} tok/s  ${minutes} left`;
}

async function train(flags: TrainFlags, signal: AbortSignal): Promise<void> {
  const run = await planRun(flags, signal);
  const { size } = run.trainer.layout;
  process.stderr.write(`${size.toLocaleString("en")} trained parameters; state and metrics in ${flags.output}\n`);
  const result = await runTraining({
    ...run,
    onStep: (line) => process.stderr.write(`${progressLine(line, flags)}\n`),
  });
  const plot = join(flags.output, "loss.svg");
  await writeLossPlot(plot, result.metrics);
  const last = result.metrics[result.metrics.length - 1];
  const summary = {
    finished: result.finished,
    step: result.step,
    loss: last?.loss,
    distillLoss: last?.distillLoss,
    evalLoss: last?.evalLoss,
    adapter: result.adapterDirectory,
    plot,
  };
  if (flags.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
  else {
    const state = result.finished ? "Finished" : `Stopped; the same command goes on from here`;
    process.stdout.write(
      `${state}: step ${result.step}, loss ${last?.loss.toFixed(4)}.\nAdapter: ${result.adapterDirectory}\nPlot: ${plot}\n`,
    );
  }
}

/** `precis train`. */
export function trainCommand(): Command {
  const command = addTrainOptions(
    new Command("train").description(
      "Train an adapter (ccm-concat, ccm-merge, gist, streaming-ccm, compressive, autocompressor, rmt, sentinel), a baseline, or an ordinary LoRA on a frozen model.",
    ),
  ).addHelpText(
    "after",
    `
Examples:
  A first adapter on the CPU, in minutes:
    $ precis train --method ccm-concat --data ./data --output runs/concat --steps 200 --rows 4 --row-length 256
  The paper's recipe on a GPU:
    $ precis train --method ccm-merge --comp-tokens 8 --data ./data --output runs/merge --rows 32 --device webgpu
  The same with frozen matrices in 8 bits, the fastest where a GPU has tensor cores:
    $ precis train --method ccm-merge --comp-tokens 8 --data ./data --output runs/fast --rows 32 --device webgpu --precision int8
  Learn from the model with the full context in view as well, and from every word:
    $ precis train --method ccm-concat --data ./data --output runs/taught --distill 0.5 --labels all --label-budget 2048
  Recurrent summaries, with gradients through two of them:
    $ precis train --method autocompressor --bptt 2 --rows 32 --data ./data --output runs/autocompressor
  Sentinel tokens at all ratios, and the same budget for what they are compared with, on books and documents:
    $ precis train --method sentinel --ratio 0.1-0.9 --data ./data --output runs/sentinel
    $ precis train --method sentinel --placement recent --ratio 0.1-0.9 --data ./data --output runs/recent
    $ precis train --method local --ratio 0.1-0.9 --data ./data --output runs/local
    $ precis train --method scattered --ratio 0.1-0.9 --data ./data --output runs/scattered
    $ precis train --method lora --block-tokens 256 --data ./data --output runs/full
  A memory for endless text, on books: windows of 160 slots, every 32 tokens squeezed into 2:
    $ precis train --method streaming-ccm --sink --only books --data ./data --output runs/stream --row-length 704 --rows 4 --distill 0.5
    $ precis eval streaming --data ./data --method streaming-ccm:runs/stream/adapter,budget=160 --method sliding-window,budget=160
  Use it:
    $ precis chat --adapter runs/concat/adapter
`,
  );
  return command.action(async (flags: TrainFlags) => {
    const controller = new AbortController();
    const stop = (): void => controller.abort();
    process.once("SIGINT", stop);
    try {
      await train(flags, controller.signal);
    } finally {
      process.off("SIGINT", stop);
    }
  });
}
