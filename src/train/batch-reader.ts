/** @file Reads the batches of a run, one of them ahead of need, so that its inputs can be made while the device works. */
import { PrecisError } from "../errors.js";

/** Endless batches, in order. Reading ahead changes neither which batch comes next nor when an error is met. */
export class BatchReader<Batch> implements AsyncDisposable {
  readonly #batches: AsyncIterator<Batch>;
  #ahead: Promise<IteratorResult<Batch>> | undefined;
  #arrived: Batch | undefined;

  constructor(batches: AsyncIterable<Batch>) {
    this.#batches = batches[Symbol.asyncIterator]();
  }

  /**
   * The next batch.
   * @throws INPUT_INVALID if there is none; what the source throws
   */
  async next(): Promise<Batch> {
    const reading = this.#ahead ?? this.#batches.next();
    this.#ahead = undefined;
    this.#arrived = undefined;
    const { value, done } = await reading;
    if (done !== true) return value;
    throw new PrecisError("INPUT_INVALID", "The training data ended.", { nextStep: "Give more data, or fewer steps." });
  }

  /** Asks for the next batch without waiting for it. */
  readAhead(): void {
    if (this.#ahead !== undefined) return;
    this.#ahead = this.#batches.next();
    void this.#notice(this.#ahead);
  }

  /** The next batch, if it was asked for and is there by now; it stays the next one. */
  get arrived(): Batch | undefined {
    return this.#arrived;
  }

  /** Ends what makes the batches; one that is being read ahead is waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#arrived = undefined;
    await this.#batches.return?.();
  }

  async #notice(reading: Promise<IteratorResult<Batch>>): Promise<void> {
    try {
      const { value, done } = await reading;
      if (done !== true && this.#ahead === reading) this.#arrived = value;
    } catch {
      // Whoever takes the batch meets the error.
    }
  }
}
