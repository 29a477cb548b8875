/** @file A real `precis serve` in a process of its own, to be killed and cut off. */
import { onTestFinished } from "vitest";
import { start, type Running } from "../cli/precis.js";

/** A server at work. */
export interface Served extends Running {
  url: string;
}

/** Starts a server of a model's folder on a free port, and waits until it listens. Leases of dead servers end soon. */
export async function startServed(model: string, store: string): Promise<Served> {
  const fixed = [
    "--device",
    "cpu",
    "--threads",
    "1",
    "--port",
    "0",
    "--json",
    "--dtype",
    "fp32",
    "--lease",
    "0.2",
    "--checkpoints",
    "2",
  ];
  const method = ["--method", "streaming", "--set", "window=48"];
  const running = start(["serve", "--model", model, "--store", store, ...fixed, ...method]);
  onTestFinished(() => {
    // Does nothing unless the test failed before it ended the server.
    running.child.kill("SIGKILL");
  });
  let output = "";
  const listen = (data: Buffer): void => {
    output += data.toString();
  };
  running.child.stdout?.on("data", listen);
  await running.seen(/"event":"listening".*\n/);
  running.child.stdout?.off("data", listen);
  const line = output.split("\n").find((candidate) => candidate.includes('"listening"')) as string;
  return { ...running, url: (JSON.parse(line) as { url: string }).url };
}

/** Ends a server at once. */
export async function kill({ child, finished }: Running): Promise<void> {
  child.kill("SIGKILL");
  await finished;
}
