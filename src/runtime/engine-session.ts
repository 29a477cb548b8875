/** @file One ONNX Runtime session made from a graph of ours, with typed errors. */
import { InferenceSession, Tensor } from "onnxruntime-node";
import { PrecisError } from "../errors.js";
import type { GraphBuilder } from "../graph/builder.js";
import { deviceCandidates, type Device } from "./device.js";
import { throughGate } from "./engine-gate.js";

/** How to start a session. */
export interface EngineOptions {
  /** Folder that external weights are named in. */
  weightsFolder: string;
  device: Device | "auto";
  /** Threads of one run on the CPU; default: as many as there are physical cores. */
  threads?: number;
  /** Whether idle threads wait actively; see `LoadOptions`. Default true. */
  spin?: boolean;
  /** Write ONNX Runtime's per-node timings to files with this prefix; they appear when the session is disposed. */
  profilePrefix?: string;
  /**
   * Every run has the same shapes. WebGPU then keeps each buffer for the next run; by default it gives large ones back
   * and asks for them again, which took more than half of a training step.
   */
  fixedShapes?: boolean;
  /**
   * Outputs that stay on the device, where it is not the CPU, to be fed to later runs. Runs must then ask for all outputs:
   * the engine looks an output's place up by its number among those asked for, and would wait for one that is to stay.
   */
  deviceOutputs?: readonly string[];
}

/** Tensors by name. */
export type Feeds = Record<string, Tensor>;

function engineError(error: unknown, what: string): PrecisError {
  const reason = error instanceof Error ? error.message : String(error);
  if (/bad_alloc|failed to allocate|out of memory|allocation failed/i.test(reason)) {
    return new PrecisError("OUT_OF_MEMORY", `${what}: the engine ran out of memory.`, {
      cause: error,
      nextStep: 'Use a smaller dtype ("int8" or "int4"), a smaller prefill chunk, or a bounded memory method.',
    });
  }
  return new PrecisError("ENGINE_FAILED", `${what}: ${reason.split("\n")[0]}`, { cause: error });
}

function executionProvider(device: Device, fixedShapes: boolean): InferenceSession.ExecutionProviderConfig {
  return device === "webgpu" && fixedShapes ? { name: "webgpu", storageBufferCacheMode: "simple" } : device;
}

async function start(graph: Uint8Array, device: Device, options: EngineOptions): Promise<InferenceSession> {
  const settings: InferenceSession.SessionOptions = {
    executionProviders: device === "cpu" ? ["cpu"] : [executionProvider(device, options.fixedShapes === true), "cpu"],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
    ...(options.threads === undefined ? {} : { intraOpNumThreads: options.threads }),
    ...(options.profilePrefix === undefined ? {} : { enableProfiling: true, profileFilePrefix: options.profilePrefix }),
    ...(device === "webgpu" && options.deviceOutputs !== undefined
      ? {
          preferredOutputLocation: Object.fromEntries(
            options.deviceOutputs.map((name) => [name, "gpu-buffer"] as const),
          ),
        }
      : {}),
    // The graph travels as bytes, so its external weights need a folder to be found in.
    extra: {
      session: {
        model_external_initializers_file_folder_path: options.weightsFolder,
        ...(options.spin === false ? { intra_op: { allow_spinning: "0" } } : {}),
      },
    },
  };
  return throughGate(() => InferenceSession.create(graph, settings));
}

/** A loaded graph. Whoever creates it disposes it. */
export class EngineSession implements AsyncDisposable {
  readonly device: Device;
  readonly #session: InferenceSession;
  readonly #asksForAll: boolean;
  readonly #runs = new Set<Promise<unknown>>();

  private constructor(session: InferenceSession, device: Device, asksForAll: boolean) {
    this.#session = session;
    this.#asksForAll = asksForAll;
    this.device = device;
  }

  /**
   * Starts the graph that `build` makes for a device on the first device that takes it.
   * @throws DEVICE_UNAVAILABLE if no candidate device starts; OUT_OF_MEMORY; ENGINE_FAILED
   */
  static async create(build: (device: Device) => GraphBuilder, options: EngineOptions): Promise<EngineSession> {
    const failures: string[] = [];
    for (const device of deviceCandidates(options.device)) {
      const graph = build(device);
      try {
        return new EngineSession(
          await start(graph.encode(), device, options),
          device,
          options.deviceOutputs !== undefined,
        );
      } catch (error) {
        if (device === "cpu") throw engineError(error, `Loading the graph of "${graph.name}" failed`);
        failures.push(`${device}: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`);
      }
    }
    throw new PrecisError(
      "DEVICE_UNAVAILABLE",
      `The device "${options.device}" could not be started (${failures.join("; ")}).`,
      {
        value: options.device,
        nextStep: 'Check its driver, or pass device: "cpu".',
      },
    );
  }

  /**
   * Runs the graph once. Blocks the calling thread, so call it in a worker; where all outputs stay on a device, only until
   * the work is handed over.
   * @throws OUT_OF_MEMORY, ENGINE_FAILED; GRAPH_INVALID for some outputs only of a session with `deviceOutputs`
   */
  async run(feeds: Feeds, outputs: readonly string[]): Promise<Feeds> {
    const { outputNames } = this.#session;
    if (this.#asksForAll && outputs.length !== outputNames.length) {
      throw new PrecisError("GRAPH_INVALID", `A run asks for ${outputs.join(", ")} of ${outputNames.join(", ")}.`, {
        nextStep: "Ask for all outputs of a session some of whose outputs stay on the device.",
      });
    }
    const run = throughGate(() => this.#session.run(feeds, outputs));
    this.#runs.add(run);
    try {
      return (await run) as Feeds;
    } catch (error) {
      throw engineError(error, "A model run failed");
    } finally {
      this.#runs.delete(run);
    }
  }

  /** Frees the session once its runs have ended. */
  async dispose(): Promise<void> {
    await Promise.allSettled(this.#runs);
    await throughGate(() => this.#session.release());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** A float32 tensor over `data`, without copying it. */
export function floatTensor(data: Float32Array, dims: readonly number[]): Tensor {
  return new Tensor("float32", data, dims);
}

/** An int64 tensor of whole numbers from −2^31 to 2^31 − 1, such as token ids, rows and positions. */
export function integerTensor(values: ArrayLike<number>, dims: readonly number[] = [values.length]): Tensor {
  const data = new BigInt64Array(values.length);
  // Written as halves, low ones first: a BigInt for each would take a tenth of a training step on a GPU.
  const halves = new Int32Array(data.buffer);
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    halves[2 * i] = value;
    halves[2 * i + 1] = value < 0 ? -1 : 0;
  }
  return new Tensor("int64", data, dims);
}
