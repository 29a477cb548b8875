/** @file `/v1/embeddings`: the mean of the base model's last hidden states, of length 1. Not a trained embedder. */
import type { LanguageModel } from "../../index.js";
import { notSupported } from "../api-error.js";
import { clientSignal, readBody, type Request, type Services } from "../context.js";
import { embeddingsRequest } from "../schemas/completions.js";
import { inputTexts } from "./completions.js";

/** Answers a request for embeddings. */
export async function embeddings(c: Request, services: Services): Promise<Response> {
  const body = await readBody(c, embeddingsRequest);
  const served = services.models.find(body.model);
  const { hiddenSize, bytesPerSlot } = served.model.info;
  if (body.dimensions && body.dimensions !== hiddenSize) {
    throw notSupported("dimensions", "A size other than the model's own", `Use ${hiddenSize}.`);
  }
  const { signal } = clientSignal(c);
  const data: object[] = [];
  let tokens = 0;
  for (const [index, input] of inputTexts(body.input).entries()) {
    const ids = typeof input === "string" ? await served.model.tokenize(input, { addSpecialTokens: true }) : input;
    const job = { key: c.get("namespace"), bytes: ids.length * bytesPerSlot, signal };
    const vector = await services.scheduler.run(job, (combined) => meanState(served.model, ids, combined));
    data.push({
      object: "embedding",
      index,
      embedding: body.encoding_format === "base64" ? base64(vector) : [...vector],
    });
    tokens += ids.length;
  }
  return c.json({
    object: "list",
    model: served.id,
    data,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  });
}

function base64(vector: Float32Array): string {
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64");
}

/** The mean over all tokens of what comes out of the last layer and norm, [hidden], scaled to length 1. */
async function meanState(model: LanguageModel, ids: readonly number[], signal: AbortSignal): Promise<Float32Array> {
  const { layerCount, hiddenSize } = model.info;
  const tap = `hidden.${layerCount}`;
  const memory = await model.createMemory({ method: "full" });
  try {
    const { taps } = await memory.forward(ids, { logits: "last", taps: [tap], signal });
    const states = (taps[tap] as { data: Float32Array }).data;
    const sum = new Float32Array(hiddenSize);
    states.forEach((value, place) => {
      sum[place % hiddenSize] = (sum[place % hiddenSize] as number) + value;
    });
    const length = Math.hypot(...sum) || 1;
    return sum.map((value) => value / length);
  } finally {
    await memory.dispose();
  }
}
