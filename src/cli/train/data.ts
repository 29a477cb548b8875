/** @file What `precis train` learns from and is measured on. */
import { EpisodeSampler, type SampleOptions } from "../../data/sample.js";
import { SETTINGS, type Episode, type Setting } from "../../data/episode.js";
import { PrecisError } from "../../errors.js";
import type { PortableSample } from "../../train/batch-thread.js";
import { number } from "./flags.js";

/** Shares of the settings from `conversation=4,icl=3`. */
export function mixture(text: string | undefined): SampleOptions["weights"] {
  if (text === undefined) return undefined;
  return Object.fromEntries(
    text.split(",").map((part) => {
      const [name = "", share = "1"] = part.split("=");
      if ((SETTINGS as readonly string[]).includes(name)) return [name as Setting, number(share)];
      throw new PrecisError("OPTION_INVALID", `There is no setting "${name}".`, {
        value: name,
        nextStep: `Settings: ${SETTINGS.join(", ")}.`,
      });
    }),
  );
}

/** The first episodes. */
export async function* first(sampler: EpisodeSampler, count: number): AsyncGenerator<Episode, void, void> {
  for (let index = 0; index < count; index++) yield sampler.at(index);
}

/** The part of the options that can be sent to a thread. */
export function portable({
  tokenizer: _tokenizer,
  template: _template,
  signal: _signal,
  ...rest
}: SampleOptions): PortableSample {
  return rest;
}

/** Held-out episodes come from official dev splits; data without one simply are not evaluated on. */
export async function openHeldOut(options: SampleOptions): Promise<EpisodeSampler | undefined> {
  return EpisodeSampler.open({ ...options, split: "dev" }).catch((error: unknown) => {
    if (error instanceof PrecisError && error.code === "OPTION_INVALID") return undefined;
    throw error;
  });
}
