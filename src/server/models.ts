/** @file The models that a server offers, and which memory a request gets of them. */
import { MEMORY_METHODS, type CreateMemoryOptions, type LanguageModel } from "../index.js";
import { ApiError, invalidRequest } from "./api-error.js";

/** An adapter that clients may name. */
export interface ServedAdapter {
  name: string;
  directory: string;
  /** The method that it was trained for. */
  method: string | undefined;
}

/** Which memory to make; adapters by name. */
export interface MemorySetup {
  method?: string | undefined;
  adapter?: string | undefined;
  /** A sentinel adapter beside it, for spans within steps. */
  span_adapter?: string | undefined;
  options?: Readonly<Record<string, unknown>> | undefined;
}

/** A model, under the name that requests use. */
export interface ServedModel {
  id: string;
  model: LanguageModel;
  adapters: readonly ServedAdapter[];
  /** The memory of requests that name none. */
  setup: MemorySetup;
  /** Seconds since 1970. */
  created: number;
}

/** The models of a server. */
export class ModelPool {
  readonly #models: ReadonlyMap<string, ServedModel>;

  /** @throws ApiError where two share a name, or there is none */
  constructor(models: readonly ServedModel[]) {
    this.#models = new Map(models.map((served) => [served.id, served]));
    if (this.#models.size === models.length && models.length > 0) return;
    throw new ApiError(500, "models_invalid", "A server needs models with different names.");
  }

  /** All of them. */
  get all(): readonly ServedModel[] {
    return [...this.#models.values()];
  }

  /** The model of a name; without a name, the first one. @throws ApiError 404 */
  find(id?: string | null): ServedModel {
    const found = id === undefined || id === null ? this.all[0] : this.#models.get(id);
    if (found !== undefined) return found;
    throw new ApiError(404, "model_not_found", `There is no model "${id}".`, {
      param: "model",
      nextStep: `Models: ${[...this.#models.keys()].join(", ")}.`,
    });
  }
}

/**
 * A setup with everything decided that the server decides: the default where nothing is named, and the adapter of a
 * method that needs one.
 * @throws ApiError 400 for an unknown adapter, or where none fits
 */
export function completeSetup(served: ServedModel, asked: MemorySetup = {}): MemorySetup {
  const isNamed = asked.method !== undefined || asked.adapter !== undefined;
  const setup = isNamed ? asked : { ...served.setup, options: asked.options ?? served.setup.options };
  const { method: name, options = {} } = setup;
  const names = served.adapters.map(({ name: adapter }) => adapter);
  for (const field of ["adapter", "span_adapter"] as const) {
    const named = setup[field];
    if (named === undefined || names.includes(named)) continue;
    const offered = names.length === 0 ? "This model has none." : `Adapters: ${names.join(", ")}.`;
    throw invalidRequest(field, `There is no adapter "${named}".`, offered);
  }
  const method = MEMORY_METHODS.find((candidate) => candidate.name === name);
  if (method === undefined || !method.needsCompTokens || setup.adapter !== undefined) return { ...setup, options };
  const own = served.adapters.find((candidate) => candidate.method === name);
  const special = method.needsSentinels === true || method.needsSummaryGain === true;
  const adapter = own ?? (special ? undefined : served.adapters.find((candidate) => candidate.method !== "sentinel"));
  if (adapter !== undefined) return { ...setup, adapter: adapter.name, options };
  throw invalidRequest("adapter", `The method ${name} needs an adapter, and there is none for it.`, "Choose another.");
}

/** A setup as the library takes it. */
export function memoryOptions(served: ServedModel, setup: MemorySetup): CreateMemoryOptions {
  const { method, options } = setup;
  return { method, options, ...adapterFolders(served, setup) };
}

/** The folders of a setup's adapters. */
export function adapterFolders(
  served: ServedModel,
  { adapter, span_adapter: span }: Pick<MemorySetup, "adapter" | "span_adapter">,
): Pick<CreateMemoryOptions, "adapter" | "spanAdapter"> {
  return { adapter: adapterDirectory(served, adapter), spanAdapter: adapterDirectory(served, span) };
}

function adapterDirectory({ adapters }: ServedModel, name: string | undefined): string | undefined {
  return adapters.find((adapter) => adapter.name === name)?.directory;
}
