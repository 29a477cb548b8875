/** @file One way to say which error is expected. */

import { expect } from "vitest";

import { PrecisError, type ErrorCode } from "#precis/index.js";

/** Expects a PrecisError of this code whose text, next step included, matches all of these. */
export async function expectError(work: Promise<unknown>, code: ErrorCode, ...says: RegExp[]): Promise<void> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(PrecisError);
  expect(error).toMatchObject({ code });
  for (const pattern of says) expect((error as PrecisError).message).toMatch(pattern);
}
