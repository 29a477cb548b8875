/** @file The playground: a built web page that the server reads once and hands out beside its API. */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import type { Context, Hono } from "hono";
import type { Env } from "./context.js";

/** A file of the page. */
export interface PageFile {
  bytes: Uint8Array<ArrayBuffer>;
  type: string;
  /** Digest of the contents, in quotes. */
  etag: string;
  /** Whether its name changes with its contents, so that browsers need not ask again. */
  immutable: boolean;
}

/** Files by path, such as `/assets/index.js`; the page itself is `/`. */
export type Page = ReadonlyMap<string, PageFile>;

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

const HEADERS: Readonly<Record<string, string>> = {
  // Everything that the page needs comes from here, and it may talk to nobody else.
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; "),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
};

const NOT_BUILT =
  "The playground is not built. Run `npm run build` and start the server again. The API is under /v1.\n";

/** Reads a built page. @returns no files where there is none */
export async function readPage(folder: string): Promise<Page> {
  const names = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  });
  const files = new Map<string, PageFile>();
  for (const entry of names) {
    const type = TYPES[extname(entry.name)];
    if (!entry.isFile() || type === undefined) continue;
    const bytes = new Uint8Array(await readFile(join(entry.parentPath, entry.name)));
    const inAssets = entry.parentPath !== folder;
    const path = inAssets ? `/assets/${entry.name}` : entry.name === "index.html" ? "/" : `/${entry.name}`;
    const etag = `"${createHash("sha256").update(bytes).digest("base64url").slice(0, 27)}"`;
    files.set(path, { bytes, type, etag, immutable: inAssets });
  }
  return files;
}

/** Hands out the files of a page; without any, `/` says how to get one. */
export function servePage(hono: Hono<Env>, page: Page): void {
  for (const [path, file] of page) hono.get(path, (c) => sendFile(c, file));
  if (!page.has("/")) hono.get("/", (c) => c.text(NOT_BUILT, 404));
}

function sendFile(c: Context<Env>, { bytes, type, etag, immutable }: PageFile): Response {
  for (const [name, value] of Object.entries(HEADERS)) c.header(name, value);
  c.header("etag", etag);
  c.header("cache-control", immutable ? "public, max-age=31536000, immutable" : "no-cache");
  if (c.req.header("if-none-match") === etag) return c.body(null, 304);
  return c.body(bytes, 200, { "content-type": type });
}
