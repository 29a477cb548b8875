/** @file The provider: models, embeddings and sessions of a server. */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { NoSuchModelError, type EmbeddingModelV3, type LanguageModelV3, type ProviderV3 } from "@ai-sdk/provider";
import { loadOptionalSetting, withoutTrailingSlash, type FetchFunction } from "@ai-sdk/provider-utils";
import { PrecisChatModel } from "./chat-model.js";
import { metadataExtractor } from "./metadata.js";
import { PROVIDER } from "./options.js";
import { PrecisSessions } from "./sessions.js";

/** Where the server is, and how to call it. */
export interface PrecisProviderSettings {
  /** Address of the API. Default `http://127.0.0.1:8080/v1`, where `precis serve` listens. */
  baseURL?: string;
  /** Default: the environment's `PRECIS_API_KEY`, if there is one. */
  apiKey?: string;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** Whether a session that a call names is made if there is none. Default true. */
  createSessions?: boolean;
  /** Sends requests; for proxies and tests. */
  fetch?: FetchFunction;
}

/** Makes models by their names on the server. */
export interface PrecisProvider extends ProviderV3 {
  (modelId: string): LanguageModelV3;
  languageModel(modelId: string): LanguageModelV3;
  embeddingModel(modelId: string): EmbeddingModelV3;
  /** Sessions by name. */
  readonly sessions: PrecisSessions;
}

const DEFAULT_URL = "http://127.0.0.1:8080/v1";

/**
 * Makes a provider.
 *
 * @example
 * const precis = createPrecis();
 * const { text } = await generateText({
 *   model: precis("precis-28m"),
 *   prompt: "My sister Ada lives in Porto.",
 *   providerOptions: { precis: { session: "alice" } },
 * });
 */
export function createPrecis(settings: PrecisProviderSettings = {}): PrecisProvider {
  const { headers, createSessions = true, fetch } = settings;
  const baseURL = withoutTrailingSlash(settings.baseURL) ?? DEFAULT_URL;
  const apiKey = loadOptionalSetting({ settingValue: settings.apiKey, environmentVariableName: "PRECIS_API_KEY" });
  const openai = createOpenAICompatible({
    name: PROVIDER,
    baseURL,
    apiKey,
    headers,
    fetch,
    includeUsage: true,
    supportsStructuredOutputs: true,
    metadataExtractor,
  });
  const authorization = apiKey === undefined ? {} : { Authorization: `Bearer ${apiKey}` };
  const sessions = new PrecisSessions({ baseURL, headers: { ...authorization, ...headers }, fetch });
  const url = `${baseURL}/chat/completions`;
  const languageModel = (modelId: string): LanguageModelV3 =>
    new PrecisChatModel(modelId, { inner: openai.chatModel(modelId), sessions, createSessions, url });
  return Object.assign((modelId: string) => languageModel(modelId), {
    specificationVersion: "v3" as const,
    languageModel,
    embeddingModel: (modelId: string) => openai.embeddingModel(modelId),
    imageModel: (modelId: string) => {
      throw new NoSuchModelError({ modelId, modelType: "imageModel" });
    },
    sessions,
  });
}
