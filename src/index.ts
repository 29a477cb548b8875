/** @file The public API of Precis. */
export { PrecisError, type ErrorCode } from "./errors.js";
export { Memory, type GenerationResult, type SnapshotOptions, type WorkOptions } from "./memory/memory.js";
export type { MemoryStats } from "./memory/memory-stats.js";
export type { MemoryMethod, OptionSpec, OptionValue } from "./memory/method.js";
export { MEMORY_METHODS } from "./memory/registry.js";
export { splitSnapshot } from "./memory/snapshot-layout.js";
export type { MemoryAttention, MemorySlot } from "./memory/slots.js";
export type { SlotOrigin } from "./cache/slot-origin.js";
export type { SnapshotPrecision } from "./codec/row-precision.js";
export type { ChooseSpans, SpanQuestion, SpanToken } from "./memory/spans/caller-spans.js";
export type { Device } from "./runtime/device.js";
export { sentinelIds, type Span } from "./sentinel/sentinel-tokens.js";
export { LanguageModel, loadModel, type LoadOptions, type RestoreOptions } from "./runtime/model.js";
export type {
  AdapterInfo,
  CreateMemoryOptions,
  FinishReason,
  ForwardOutput,
  GenerateOptions,
  GenerationEvent,
  LoadProgress,
  MaskedText,
  MemoryInput,
  MemoryRows,
  ModelInfo,
  WeightDType,
} from "./runtime/protocol.js";
export type { SamplingOptions, TokenLogprob } from "./runtime/sampler.js";
export type { ChatMessage } from "./text/chat-template.js";
export type { JsonSchema } from "./grammar/schema.js";
export { checkAnswerFormat, type ResponseFormat } from "./tools/answer-grammar.js";
export { toolSetup, type ToolCall, type ToolChoice, type ToolDefinition, type ToolSetup } from "./tools/tool.js";
export { listCachedModels, resolveModel, type DownloadProgress, type ResolveOptions } from "./weights/hub.js";
export { EncryptedStore, type EncryptionOptions } from "./stores/encrypted-store.js";
export { FileStore } from "./stores/file-store.js";
export { LmdbStore } from "./stores/lmdb-store.js";
export { MemoryStore } from "./stores/memory-store.js";
export { PostgresStore } from "./stores/postgres-store.js";
export { RedisStore } from "./stores/redis-store.js";
export { S3Store, type S3Options } from "./stores/s3-store.js";
export { namespaceOf } from "./stores/session-key.js";
export type {
  JsonValue,
  Lease,
  ListPage,
  ListQuery,
  SessionKey,
  SessionStore,
  SessionValue,
  StoredSession,
} from "./stores/store.js";
export { updateSession } from "./stores/update-session.js";
