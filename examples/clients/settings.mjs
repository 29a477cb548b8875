// @ts-check
/** @file Where the server is, and how the programs show what a memory holds. */

const { PRECIS_URL, PRECIS_API_KEY, PRECIS_MODEL } = process.env;

export const baseURL = PRECIS_URL ?? "http://127.0.0.1:8080/v1";
/** Clients of OpenAI want a key even where the server wants none. */
export const apiKey = PRECIS_API_KEY ?? "none";
export const model = PRECIS_MODEL ?? "precis-28m";

/**
 * The arguments of a program, of which the first ones must be there.
 * @param {string} usage shown if one is missing
 * @param {number} least how many must be there
 */
export function programArguments(usage, least) {
  const given = process.argv.slice(2);
  if (given.length >= least) return given;
  console.error(`Usage: node ${usage}`);
  process.exit(2);
}

/**
 * A line about a memory, as `usage.memory` describes it.
 * @param {{ steps: number, tokens_seen: number, slots: number, bytes: number, full_cache_bytes: number }} memory
 */
export function describeMemory({ steps, tokens_seen, slots, bytes, full_cache_bytes }) {
  return `memory: ${steps} steps, ${tokens_seen} tokens in ${slots} slots, ${bytes} bytes; a full cache: ${full_cache_bytes}`;
}
