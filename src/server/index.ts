/** @file The server as a library: `import { createApp, listen } from "precis/server"`. */
export { createApp, type ServerApp } from "./app.js";
export { listen, type Listening } from "./listen.js";
export { readPage, type Page, type PageFile } from "./page.js";
export type { MemorySetup, ServedAdapter, ServedModel } from "./models.js";
export { DEFAULT_LIMITS, type ApiKey, type LogRecord, type ServerLimits, type ServerOptions } from "./options.js";
