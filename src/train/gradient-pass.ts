/**
 * @file What a trainer asks of a way to train: the loss of one micro-batch and its gradient. The trainer owns what is
 * learned and the optimiser; a pass owns graphs, and knows how a batch becomes a loss.
 */
import type { Tensor } from "onnxruntime-node";
import type { Device } from "../runtime/device.js";

/** What one micro-batch measured. */
export interface PassLoss {
  /** Mean negative log-likelihood of the labels, in nats. */
  loss: number;
  /** Number of labels that the mean is over. */
  labels: number;
  /** Mean over the labels of KL(teacher ‖ student), in nats, where training distils. */
  distillLoss?: number;
}

/** The numbers of a {@link PassLoss} that are computed with the gradient. */
export type LossName = "loss" | "distillLoss";

/** Sums over micro-batches. On WebGPU they stay on the device, so that nothing waits for it between two micro-batches. */
export interface GradientSums {
  /** [parameters] float32. */
  gradient: Tensor;
  /** [losses] float32: those that the pass names, in its order. */
  losses: Tensor;
}

/** What a backward pass starts from. The tensors stay the caller's: a pass neither keeps nor disposes them. */
export interface BackwardInputs {
  /** Everything that is learned, [parameters] float32, where the optimiser left it (on WebGPU: on the device). */
  parameters: Tensor;
  /** Sums over the micro-batches before; zeros for the first one of a step. */
  accumulated: GradientSums;
  /** Factor on the loss while it is differentiated, of passes with half floats; gradients come out without it. */
  lossScale?: number;
}

/** A micro-batch as inputs of the graphs, lacking nothing but what is learned. */
export interface PreparedBatch {
  /** Number of labels that its losses are means over. */
  readonly labels: number;
  /**
   * Runs forward and backward once. On WebGPU, the device may still be at work when this resolves.
   * @returns `accumulated` plus this micro-batch's gradient and losses, as new tensors that the caller disposes
   */
  backward(inputs: BackwardInputs): Promise<GradientSums>;
}

/**
 * Makes loss and gradient of micro-batches of type `Batch`. The gradient is that of the *mean* over the batch's labels;
 * the trainer divides the sum over micro-batches by their number. Whoever creates a pass disposes it.
 */
export interface GradientPass<Batch> extends AsyncDisposable {
  /** Where gradients are left; the optimiser is started there. */
  readonly device: Device;
  /** Which losses come with a gradient. */
  readonly losses: readonly LossName[];
  /**
   * Makes the inputs of a micro-batch, which do not depend on what is learned; so it can be done ahead.
   * @param draw a number that no other micro-batch of the run has, the same when a run is resumed: seeds whatever is random
   */
  prepare(batch: Batch, draw: number): PreparedBatch;
  /** The loss alone, without anything random, for held-out data. */
  evaluate(batch: Batch, parameters: Tensor): Promise<PassLoss>;
}
