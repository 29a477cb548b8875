/** @file `/v1/models`: what is served, with the adapters and memory methods of each. */
import { MEMORY_METHODS } from "../../index.js";
import type { Request, Services } from "../context.js";
import type { ServedModel } from "../models.js";

function modelView({ id, created, model, adapters, setup }: ServedModel): object {
  const { family, dtype, device, maxPositions, bytesPerSlot, hiddenSize, hasChatTemplate } = model.info;
  return {
    id,
    object: "model",
    created,
    owned_by: "precis",
    precis: {
      family,
      dtype,
      device,
      max_positions: maxPositions,
      bytes_per_slot: bytesPerSlot,
      hidden_size: hiddenSize,
      has_chat_template: hasChatTemplate,
      adapters: adapters.map(({ name, method }) => ({ name, method: method ?? null })),
      default_memory: { method: setup.method ?? null, adapter: setup.adapter ?? null, options: setup.options ?? {} },
      methods: MEMORY_METHODS.map(({ name, needsCompTokens }) => ({ name, needs_adapter: needsCompTokens })),
    },
  };
}

/** Lists the models. */
export async function listModels(c: Request, services: Services): Promise<Response> {
  return c.json({ object: "list", data: services.models.all.map(modelView) });
}

/** Shows a model. */
export async function getModel(c: Request, services: Services): Promise<Response> {
  return c.json(modelView(services.models.find(c.req.param("id"))));
}
