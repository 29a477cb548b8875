/** @file A running hash of every token a memory has seen, so that a history can be recognised exactly. */
import { createHash } from "node:crypto";

/** The chain of no tokens. */
export const EMPTY_CHAIN = "";

/** The chain after `ids`: each link is SHA-256(previous link, token), so it does not depend on how tokens were grouped. */
export function extendChain(chain: string, ids: readonly number[]): string {
  let link = chain;
  for (const id of ids) link = createHash("sha256").update(`${link},${id}`).digest("base64");
  return link;
}
