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

/** What a backward pass starts from. The tensors stay the caller's: a pass neither keeps nor disposes them. */
export interface BackwardInputs {
  /** Everything that is learned, [parameters] float32, where the optimiser left it (on WebGPU: on the device). */
  parameters: Tensor;
  /** Sum of the gradients of the micro-batches before, [parameters] float32; a fresh step gives zeros in host memory. */
  accumulated: Tensor;
  /** A number that no other micro-batch of the run has, the same when a run is resumed: seeds whatever is random. */
  draw: number;
  /** Factor on the loss while it is differentiated, of passes with half floats; gradients come out without it. */
  lossScale?: number;
}

/** Loss of a micro-batch, and `accumulated` plus its gradient as a new tensor that the caller disposes. */
export interface BackwardResult extends PassLoss {
  /** [parameters] float32; on WebGPU it stays on the device. */
  gradient: Tensor;
}

/**
 * Makes loss and gradient of micro-batches of type `Batch`. The gradient is that of the *mean* over the batch's labels;
 * the trainer divides the sum over micro-batches by their number. Whoever creates a pass disposes it.
 */
export interface GradientPass<Batch> extends AsyncDisposable {
  /** Where gradients are left; the optimiser is started there. */
  readonly device: Device;
  backward(batch: Batch, inputs: BackwardInputs): Promise<BackwardResult>;
  /** The loss alone, without anything random, for held-out data. */
  evaluate(batch: Batch, parameters: Tensor): Promise<PassLoss>;
}
