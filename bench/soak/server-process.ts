/** @file A real `precis serve` in a process of its own, and what can be seen of it from outside. */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** A line of its log that tells of trouble. */
export interface Trouble {
  event: string;
  reason: string;
}

/** Bytes of physical memory that a process has; on Linux from `/proc`, elsewhere from `ps`. */
export function residentBytes(pid: number): number {
  if (process.platform === "linux") {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
  }
  return 1024 * Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" }));
}

/** Processor time that a process has used, in milliseconds; undefined where there is no `/proc`. */
export function processorMs(pid: number): number | undefined {
  if (process.platform !== "linux") return undefined;
  // What follows the name in parentheses begins with field 3; 14 and 15 are user and system time in hundredths of a second.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

/** A running server. Whoever starts it disposes it. */
export class ServerProcess implements AsyncDisposable {
  readonly url: string;
  readonly pid: number;
  /** What it logged as errors, and what it wrote to standard error. */
  readonly troubles: Trouble[];
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, url: string, troubles: Trouble[]) {
    this.#child = child;
    this.url = url;
    this.pid = child.pid as number;
    this.troubles = troubles;
  }

  /** Starts `precis serve` with these options on a free port, and waits until it listens. */
  static async start(root: URL, options: readonly string[]): Promise<ServerProcess> {
    const program = fileURLToPath(new URL("dist/cli/main.js", root));
    const child = spawn(process.execPath, [program, "serve", "--json", "--port", "0", ...options], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const troubles: Trouble[] = [];
    const url = await new Promise<string>((resolve, reject) => {
      createInterface({ input: child.stderr }).on("line", (line) => troubles.push({ event: "stderr", reason: line }));
      createInterface({ input: child.stdout }).on("line", (line) => {
        const { level, event, url: address, ...fields } = JSON.parse(line) as Record<string, string>;
        if (event === "listening") resolve(address as string);
        if (level === "error") troubles.push({ event: event ?? "", reason: JSON.stringify(fields) });
      });
      child.once("exit", (code) => {
        troubles.push({ event: "exit", reason: `code ${code}` });
        reject(new Error(`The server ended: ${troubles.map(({ reason }) => reason).join("\n")}`));
      });
    });
    return new ServerProcess(child, url, troubles);
  }

  /** Values of its metrics without labels, by name. */
  async metrics(): Promise<ReadonlyMap<string, number>> {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const lines = text.split("\n").map((line) => /^(\w+) (\S+)$/.exec(line));
    return new Map(lines.flatMap((line) => (line === null ? [] : [[line[1] as string, Number(line[2])] as const])));
  }

  /** Stops it as Ctrl-C does. @returns its exit code */
  async stop(): Promise<number | null> {
    if (this.#child.exitCode !== null) return this.#child.exitCode;
    this.#child.removeAllListeners("exit");
    const exited = once(this.#child, "exit") as Promise<[number | null]>;
    this.#child.kill("SIGTERM");
    return (await exited)[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
