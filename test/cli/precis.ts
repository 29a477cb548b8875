/** @file Runs the built command line in a process of its own, as users do. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll } from "vitest";

const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

/** How a run ended. */
export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** A run in progress. */
export interface Running {
  child: ChildProcess;
  /** Waits until stdout matches. */
  seen: (pattern: RegExp) => Promise<void>;
  finished: Promise<Finished>;
}

/** Starts `precis ARGS`, with nothing of the user's own settings. */
export function start(args: readonly string[], env: Record<string, string> = {}): Running {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH: process.env.PATH, HF_HUB_OFFLINE: "1", NO_COLOR: "1", ...env },
  });
  let stdout = "";
  let stderr = "";
  const waiting = new Set<() => void>();
  child.stdout.on("data", (data: Buffer) => {
    stdout += data.toString();
    for (const check of waiting) check();
  });
  child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
  const finished = new Promise<Finished>((resolve) => {
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
  const seen = (pattern: RegExp): Promise<void> =>
    new Promise((resolve, reject) => {
      const check = (): void => {
        if (!pattern.test(stdout)) return;
        waiting.delete(check);
        resolve();
      };
      waiting.add(check);
      check();
      void finished.then(() => reject(new Error(`ended without ${pattern}: ${stdout}${stderr}`)));
    });
  return { child, seen, finished };
}

/** Runs `precis ARGS` to its end. @param stdin what is piped in */
export function precis(args: readonly string[], stdin = ""): Promise<Finished> {
  const { child, finished } = start(args);
  child.stdin?.end(stdin);
  return finished;
}

/** A folder for the tests of a file; `path` joins names to it. */
export function testFolder(): (...names: string[]) => string {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "precis-cli-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return (...names) => join(folder, ...names);
}
