/** @file How many bytes of request bodies the server holds at once, over all requests together. */
import { ApiError } from "./api-error.js";

/** Seconds after which bodies that are held now have mostly been dealt with. */
const RETRY_AFTER = 1;

/** Bytes that the bodies of all requests share. */
export class BodyBudget {
  readonly limit: number;
  readonly #onRefused: () => void;
  #used = 0;

  /** @param onRefused called for each body that does not fit */
  constructor(limit: number, onRefused: () => void = () => undefined) {
    this.limit = limit;
    this.#onRefused = onRefused;
  }

  /** Bytes held now. */
  get used(): number {
    return this.#used;
  }

  /** @throws ApiError 503 where so many bytes more are more than may be held */
  check(bytes: number): void {
    if (this.#used + bytes <= this.limit) return;
    this.#onRefused();
    throw new ApiError(503, "body_budget_exceeded", "The server is taking in as many bodies as it can hold.", {
      nextStep: "Send the request again a little later.",
      retryAfter: RETRY_AFTER,
    });
  }

  /** Counts bytes that have come. @throws ApiError 503, counting nothing */
  take(bytes: number): void {
    this.check(bytes);
    this.#used += bytes;
  }

  /** Counts bytes that are done with. */
  release(bytes: number): void {
    this.#used -= bytes;
  }
}

/** The body of one request: what has come of it counts until the request is answered. */
export class BodyRoom {
  readonly #budget: BodyBudget;
  readonly #most: number;
  #taken = 0;

  /** @param most bytes that this body alone may have */
  constructor(budget: BodyBudget, most: number) {
    this.#budget = budget;
    this.#most = Math.min(most, budget.limit);
  }

  /** Refuses a body of a size that cannot be taken. @throws ApiError 413, 503 */
  expect(bytes: number): void {
    this.#refuseLarge(bytes);
    this.#budget.check(bytes);
  }

  /**
   * Counts a piece that has come. Only pieces count, not what a request announces: else requests that send nothing could
   * keep all others out.
   * @throws ApiError 413, 503
   */
  take(bytes: number): void {
    this.#refuseLarge(this.#taken + bytes);
    this.#budget.take(bytes);
    this.#taken += bytes;
  }

  /** Gives back what the body took. */
  release(): void {
    this.#budget.release(this.#taken);
    this.#taken = 0;
  }

  #refuseLarge(bytes: number): void {
    if (bytes <= this.#most) return;
    throw new ApiError(413, "body_too_large", `The body is larger than ${this.#most} bytes.`, {
      nextStep: "Send less at once; a session takes text in piece by piece.",
    });
  }
}
