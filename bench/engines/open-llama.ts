/** @file llama.cpp as the installed package brings it. */
import { getLlama, LlamaLogLevel, type Llama } from "node-llama-cpp";

/** The prebuilt CPU binary; nothing is built or downloaded. */
export function openLlama(threads: number): Promise<Llama> {
  return getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    maxThreads: threads,
    logLevel: LlamaLogLevel.error,
  });
}
