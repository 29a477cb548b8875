/** @file What a step does in which order, with a pass in place of a model: it waits once, prepares ahead, cleans up. */

import { tmpdir } from "node:os";

import type { Tensor } from "onnxruntime-node";
import { describe, expect, test } from "vitest";

import { floatTensor } from "#precis/runtime/engine-session.js";
import type { GradientPass, LossName } from "#precis/train/gradient-pass.js";
import { Trainer } from "#precis/train/trainer.js";

/** A batch that makes known losses. */
interface Losses {
  name: string;
  loss: number;
  distillLoss?: number;
  fails?: boolean;
}

const SIZE = 4;

/** Whether tensors that a pass made were disposed: how many once, how many never or more often. */
class Ledger {
  readonly #times: number[] = [];

  track(values: readonly number[]): Tensor {
    const tensor = floatTensor(Float32Array.from(values), [values.length]);
    const index = this.#times.push(0) - 1;
    const dispose = tensor.dispose.bind(tensor);
    tensor.dispose = () => {
      this.#times[index] += 1;
      dispose();
    };
    return tensor;
  }

  get counts(): { made: number; disposedOnce: number } {
    return { made: this.#times.length, disposedOnce: this.#times.filter((times) => times === 1).length };
  }
}

/** A trainer whose gradients are ones, and everything that it asked of its pass, in order. */
async function startTrainer(losses: readonly LossName[] = ["loss"]) {
  const events: string[] = [];
  const ledger = new Ledger();
  const sum = (tensor: Tensor, more: readonly number[]): Tensor =>
    ledger.track(more.map((value, i) => Number(tensor.data[i]) + value));
  const pass: GradientPass<Losses> = {
    device: "cpu",
    losses,
    prepare: (batch, draw) => {
      events.push(`prepare ${batch.name} with draw ${draw}`);
      return {
        labels: 3,
        async backward({ accumulated: { gradient, losses: before } }) {
          events.push(`run ${batch.name}`);
          if (batch.fails === true) throw new Error("the device is gone");
          return {
            gradient: sum(gradient, [1, 1, 1, 1]),
            losses: sum(
              before,
              losses.map((name) => batch[name] ?? NaN),
            ),
          };
        },
      };
    },
    evaluate: () => Promise.reject(new Error("not asked for")),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const zeros = (): Float32Array => new Float32Array(SIZE);
  const trainer = await Trainer.create({
    layout: { size: SIZE, slices: [] },
    pass: () => Promise.resolve(pass),
    optimizer: {},
    engine: { weightsFolder: tmpdir(), device: "cpu", threads: 1 },
    state: { step: 0, parameters: zeros(), firstMoment: zeros(), secondMoment: zeros() },
  });
  return { trainer, events, ledger };
}

const batches: Losses[] = [
  { name: "a", loss: 1, distillLoss: 0.25 },
  { name: "b", loss: 2, distillLoss: 0.5 },
  { name: "c", loss: 6, distillLoss: 0.75 },
];
const [a, b, c] = batches;

describe("losses", () => {
  test("of several micro-batches are averaged, of cross entropy and of the distance to a teacher", async () => {
    const { trainer } = await startTrainer(["loss", "distillLoss"]);
    await using _ = trainer;
    expect(await trainer.takeStep(batches, 0.1)).toEqual({ loss: 3, distillLoss: 0.5, gradientNorm: 2, labels: 9 });
    // Nothing of a step is left in the next.
    expect(await trainer.takeStep([b], 0.1)).toEqual({ loss: 2, distillLoss: 0.5, gradientNorm: 2, labels: 3 });
  });

  test("without a teacher there is one", async () => {
    const { trainer } = await startTrainer();
    await using _ = trainer;
    expect(await trainer.takeStep([a, b], 0.1)).toEqual({ loss: 1.5, gradientNorm: 2, labels: 6 });
  });
});

describe("the next batch", () => {
  test("is asked for and prepared once all of this step is under way, and not again when it comes", async () => {
    const { trainer, events } = await startTrainer();
    await using _ = trainer;
    await trainer.takeStep([a, b], 0.1, () => {
      events.push("ask");
      return c;
    });
    await trainer.takeStep([c, a], 0.1);
    expect(events).toEqual([
      "prepare a with draw 0",
      "run a",
      "prepare b with draw 1",
      "run b",
      "ask",
      "prepare c with draw 2",
      "run c",
      "prepare a with draw 3",
      "run a",
    ]);
  });

  test.each<[string, Losses[], string[]]>([
    ["is another one after all", [b], ["prepare b with draw 1"]],
    ["comes in a step of another size, so has other random numbers", [c, a], ["prepare c with draw 2"]],
  ])("%s: prepared when it comes", async (_what, next, prepared) => {
    const { trainer, events } = await startTrainer();
    await using _ = trainer;
    await trainer.takeStep([a], 0.1, () => c);
    events.length = 0;
    await trainer.takeStep(next, 0.1);
    expect(events.slice(0, 1)).toEqual(prepared);
  });

  test("need not be known", async () => {
    const { trainer, events } = await startTrainer();
    await using _ = trainer;
    await trainer.takeStep([a], 0.1, () => undefined);
    expect(events).toEqual(["prepare a with draw 0", "run a"]);
  });
});

describe("tensors", () => {
  test("are disposed once each, however many micro-batches and steps there are", async () => {
    const { trainer, ledger } = await startTrainer();
    await using _ = trainer;
    await trainer.takeStep(batches, 0.1, () => b);
    await trainer.takeStep([b], 0.1);
    expect(ledger.counts).toEqual({ made: 8, disposedOnce: 8 });
  });

  test("are disposed when a later micro-batch fails, and the trainer can go on", async () => {
    const { trainer, ledger } = await startTrainer();
    await using _ = trainer;
    await expect(trainer.takeStep([a, b, { ...c, fails: true }], 0.1)).rejects.toThrow("the device is gone");
    expect(ledger.counts).toEqual({ made: 4, disposedOnce: 4 });
    expect(trainer.step).toBe(0);
    expect(await trainer.takeStep([a], 0.1)).toMatchObject({ loss: 1, gradientNorm: 2 });
  });
});
