/** @file Kills processes while they write to a store, again and again, and looks for what was lost. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { expect } from "vitest";

import type { SessionStore } from "#precis/stores/store.js";

const rounds = Number(process.env.PRECIS_CRASH_ROUNDS ?? 3);
/** Enough for all rounds on a slow machine. */
export const CRASH_TIMEOUT_MS: number = 60_000 + rounds * 5000;
const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
const { key, openStore } = (await import(here("crash-store.mjs"))) as {
  key: { namespace: string; id: string };
  openStore(kind: string, folder: string): Promise<SessionStore>;
};

/** Appends that a writer was told are kept, until it was killed `ms` after its first. */
async function killedWriter(kind: string, folder: string, name: string, ms: number): Promise<string[]> {
  const child = spawn(process.execPath, [here("crash-writer.mjs"), kind, folder, name]);
  let [output, problems] = ["", ""];
  child.stderr.on("data", (data: Buffer) => (problems += data.toString()));
  child.stdout.on("data", (data: Buffer) => (output += data.toString()));
  await Promise.race([once(child.stdout, "data"), once(child, "exit")]);
  await sleep(ms);
  child.kill("SIGKILL");
  if (child.exitCode === null && child.signalCode === null) await once(child, "close");
  expect(problems).toBe("");
  return output.split("\n").slice(0, -1);
}

/**
 * Two writers share a session and are killed at different moments; then the session must be whole, hold every append
 * that was acknowledged, and at most one more of each writer: the one it was killed at.
 * The number of rounds is PRECIS_CRASH_ROUNDS, or 3.
 */
export async function crashRounds(kind: string, folder: string): Promise<void> {
  let before: string[] = [];
  for (let round = 0; round < rounds; round++) {
    const killed = [0, 1].map((writer) =>
      killedWriter(kind, folder, `${round}.${writer}`, (round * 7 + writer * 13) % 40),
    );
    const acknowledged = (await Promise.all(killed)).flat();
    const store = await openStore(kind, folder);
    const session = await store.get(key);
    await store.close();
    const lines = (session!.metadata as { lines: string[] }).lines;
    expect(acknowledged.length).toBeGreaterThan(0);
    expect(lines.slice(0, before.length)).toEqual(before);
    const added = lines.slice(before.length);
    expect(new Set(added).size).toBe(added.length);
    expect(added).toEqual(expect.arrayContaining(acknowledged));
    expect(added.length - acknowledged.length).toBeLessThanOrEqual(2);
    expect(Buffer.from(session!.bytes).equals(Buffer.alloc(200_000, lines.at(-1)))).toBe(true);
    before = lines;
  }
}
