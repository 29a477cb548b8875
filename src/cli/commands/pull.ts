/** @file `precis pull`: download a model from the hub. */

import { Command } from "commander";
import { resolveModel } from "../../weights/hub.js";
import type { DownloadProgress } from "../../weights/hub.js";
import { formatBytes } from "../../format/sizes.js";

interface PullOptions {
  revision?: string;
  cacheDir?: string;
  json?: boolean;
}

const HELP = `
Examples:
  $ precis pull owner/name                  the main branch
  $ precis pull owner/name@v1.0             a branch, tag or commit
  $ precis pull owner/name --json           {"model": "owner/name", "path": "…"}

Only what Precis reads is downloaded: configuration, tokenizer and safetensors weights. An interrupted download goes on
where it stopped. HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE are honoured.
`;

/** The command `precis pull ID`: prints the directory of the model, with a progress line on a terminal's stderr. */
export function pullCommand(): Command {
  return new Command("pull")
    .description("download a model from the hub into its standard cache")
    .argument("<model>", "hub id owner/name[@revision]")
    .option("--revision <name>", "branch, tag or commit (default: main)")
    .option("--cache-dir <dir>", "cache folder (default: the standard one of the hub)")
    .option("--json", "print a JSON object instead of the path")
    .addHelpText("after", HELP)
    .action(pull);
}

async function pull(model: string, { revision, cacheDir, json = false }: PullOptions): Promise<void> {
  const line = process.stderr.isTTY ? new ProgressLine() : undefined;
  const abort = new AbortController();
  const onInterrupt = (): void => abort.abort();
  process.once("SIGINT", onInterrupt);
  try {
    const path = await resolveModel(model, {
      ...(revision !== undefined && { revision }),
      ...(cacheDir !== undefined && { cacheDir }),
      signal: abort.signal,
      onProgress: (event) => line?.show(event),
    });
    process.stdout.write(json ? `${JSON.stringify({ model, path })}\n` : `${path}\n`);
  } finally {
    process.off("SIGINT", onInterrupt);
    line?.end();
  }
}

/** One line on stderr that is drawn over, at most ten times a second. */
class ProgressLine {
  #nextAt = 0;
  #shown = false;

  show({ file, fileIndex, fileCount, bytesDone, bytesTotal }: DownloadProgress): void {
    const now = performance.now();
    if (now < this.#nextAt && bytesDone < bytesTotal) return;
    this.#nextAt = now + 100;
    this.#shown = true;
    const percent = bytesTotal === 0 ? 100 : Math.floor((100 * bytesDone) / bytesTotal);
    const amount = `${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`;
    const line = `${String(percent).padStart(3)}%  ${amount}  ${fileIndex + 1}/${fileCount} ${file}`;
    // A line longer than the terminal would wrap, and drawing over it would leave its first half behind.
    process.stderr.write(`\r\u001B[2K${line.slice(0, (process.stderr.columns ?? 80) - 1)}`);
  }

  end(): void {
    if (this.#shown) process.stderr.write("\n");
  }
}
