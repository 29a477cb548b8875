/** @file An AI SDK provider for `precis serve`. */
export { createPrecis, type PrecisProvider, type PrecisProviderSettings } from "./provider.js";
export type { PrecisMemory, PrecisMetadata, PrecisTimings } from "./metadata.js";
export type { PrecisMemorySetup, PrecisModelOptions } from "./options.js";
export type { PrecisSession, PrecisSessions, SessionCallOptions } from "./sessions.js";
