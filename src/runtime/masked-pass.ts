/** @file The likelihood of text in one pass whose attention is given token by token, as training lays texts out. */
import { KvRow } from "../cache/kv-row.js";
import { PrecisError } from "../errors.js";
import type { DecoderRunner } from "./decoder-runner.js";
import type { LoadedAdapter } from "./loaded-adapter.js";
import type { MaskedText } from "./protocol.js";
import { logProbability } from "./sampler.js";
import type { SequenceInput } from "./sequence-input.js";

/** Texts of one run: enough to fill the engine, and few enough to stop between runs. */
const BATCH = 4;

/**
 * Negative log-likelihoods in nats of the labels of each text.
 * @param check called before each run; throws to stop
 * @throws INPUT_INVALID for arrays that do not fit together
 */
export async function scoreMasked(
  runner: DecoderRunner,
  texts: readonly MaskedText[],
  adapter: LoadedAdapter | undefined,
  check: () => void = () => undefined,
): Promise<Float32Array[]> {
  for (const text of texts) checkText(text);
  const { vocabSize } = runner.config;
  const results: Float32Array[] = [];
  for (let first = 0; first < texts.length; first += BATCH) {
    check();
    const batch = texts.slice(first, first + BATCH);
    const inputs = batch.map((text) => inputOf(text, runner, adapter));
    const { logits } = await runner.forward(inputs, { logits: batch.map(({ predictors }) => predictors), adapter });
    let row = 0;
    for (const { labels } of batch) {
      results.push(
        Float32Array.from(labels, (id) => {
          const start = vocabSize * row++;
          return -logProbability(logits.subarray(start, start + vocabSize), id);
        }),
      );
    }
  }
  return results;
}

function inputOf(
  { ids, positions, attend }: MaskedText,
  { shape, config }: DecoderRunner,
  adapter: LoadedAdapter | undefined,
): SequenceInput {
  const everywhere = adapter?.gated === false;
  return {
    past: new KvRow(shape),
    ids,
    positions,
    gate: adapter === undefined ? undefined : ids.map((id) => Number(everywhere || id >= config.vocabSize)),
    visible: (query, key) => attend[query * ids.length + key] === 1,
  };
}

function checkText({ ids, positions, attend, labels, predictors }: MaskedText): void {
  const fits = positions.length === ids.length && attend.length === ids.length ** 2 && predictors.length > 0;
  if (fits && predictors.length === labels.length && predictors.every((token) => token >= 0 && token < ids.length)) {
    return;
  }
  throw new PrecisError("INPUT_INVALID", "A text with a mask needs a position, a row and a column for each token.", {
    value: { ids: ids.length, positions: positions.length, attend: attend.length },
    nextStep: "Name as many predictors as labels, at least one, each a place in the text.",
  });
}
