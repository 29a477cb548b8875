/** @file A training run on disk: resumable state, metrics, and the adapter that it makes. */
import { existsSync } from "node:fs";
import { appendFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PrecisError } from "../errors.js";
import { readSafetensorsHeader, readTensor, writeSafetensors, type TensorData } from "../weights/safetensors.js";
import type { TrainerState } from "./trainer.js";

/** One line of `metrics.jsonl`. */
export interface MetricsLine {
  step: number;
  /** Mean negative log-likelihood of the step's labels. */
  loss: number;
  /** Mean KL(teacher ‖ student) of the step's labels, of a run that distils. */
  distillLoss?: number;
  /** Absent of a step that was skipped. */
  gradientNorm?: number;
  /** Factor on the loss, of a run with half floats. */
  lossScale?: number;
  /** Whether the gradient left the range of half floats, so that nothing was learned. */
  skipped?: true;
  learningRate: number;
  /** Tokens run so far, padding included. */
  tokens: number;
  labels: number;
  seconds: number;
  tokensPerSecond: number;
  /** Mean negative log-likelihood on held-out batches, where it was measured. */
  evalLoss?: number;
}

/** What a run needs to go on exactly where it was. */
export interface Checkpoint {
  state: TrainerState;
  /** Batches consumed; the data stream is replayed up to here. */
  batches: number;
  tokens: number;
  seconds: number;
  /** The options that the run was started with, to refuse others. */
  options: Record<string, unknown>;
}

const STATE = "state.safetensors";
const METRICS = "metrics.jsonl";

/** Reads and writes the files of one run. */
export class RunDirectory {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** Makes the folder. */
  async create(): Promise<void> {
    await mkdir(this.path, { recursive: true });
  }

  /** Writes the state as one file, so that a kill leaves the old state or the new one. */
  async save({ state, ...rest }: Checkpoint): Promise<void> {
    const vector = (data: Float32Array): TensorData => ({ dtype: "float32", shape: [data.length], data });
    const tensors = {
      parameters: vector(state.parameters),
      first_moment: vector(state.firstMoment),
      second_moment: vector(state.secondMoment),
    };
    await writeSafetensors(join(this.path, STATE), tensors, {
      checkpoint: JSON.stringify({ ...rest, step: state.step, lossScale: state.lossScale }),
    });
  }

  /**
   * The saved state, or undefined if there is none.
   * @throws OPTION_INVALID if the run was started with other options; WEIGHTS_INVALID if the state is damaged
   */
  async resume(options: Record<string, unknown>): Promise<Checkpoint | undefined> {
    const file = join(this.path, STATE);
    if (!existsSync(file)) return undefined;
    const { tensors, metadata } = await readSafetensorsHeader(file);
    const { step, lossScale, ...rest } = JSON.parse(metadata["checkpoint"] ?? "{}") as Omit<Checkpoint, "state"> &
      Pick<TrainerState, "step" | "lossScale">;
    // Also options that only the saved run was given.
    const changed = Object.keys({ ...rest.options, ...options }).find(
      (key) => JSON.stringify(options[key]) !== JSON.stringify(rest.options[key]),
    );
    if (changed !== undefined) {
      throw new PrecisError("OPTION_INVALID", `The run in ${this.path} was started with another "${changed}".`, {
        value: options[changed],
        nextStep: `Use ${JSON.stringify(rest.options[changed]) ?? "none"}, or another --output.`,
      });
    }
    const vector = async (name: string): Promise<Float32Array> => {
      const entry = tensors.get(name);
      if (entry !== undefined) return Float32Array.from(await readTensor(entry));
      throw new PrecisError("WEIGHTS_INVALID", `${file} has no tensor "${name}".`, { nextStep: "Start the run anew." });
    };
    const [parameters, firstMoment, secondMoment] = await Promise.all(
      ["parameters", "first_moment", "second_moment"].map(vector),
    );
    const state = { step, parameters, firstMoment, secondMoment, ...(lossScale && { lossScale }) } as TrainerState;
    return { ...rest, state };
  }

  /** Adds a line to the metrics. */
  async log(line: MetricsLine): Promise<void> {
    await appendFile(join(this.path, METRICS), `${JSON.stringify(line)}\n`);
  }

  /** The metrics up to a step; later lines, of a run that was killed after its last save, are dropped from the file. */
  async metricsUpTo(step: number): Promise<MetricsLine[]> {
    const text = await readFile(join(this.path, METRICS), "utf8").catch(() => "");
    const lines = text.split("\n").flatMap((line) => {
      try {
        return line === "" ? [] : [JSON.parse(line) as MetricsLine];
      } catch {
        // A line cut off by a kill.
        return [];
      }
    });
    const kept = lines.filter((line) => line.step <= step);
    if (text !== "")
      await writeFile(join(this.path, METRICS), kept.map((line) => `${JSON.stringify(line)}\n`).join(""));
    return kept;
  }
}
