/** @file A real browser, where the system has one, and pages that must not complain. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";
import { findProgram } from "../stores/servers.js";

/** Where Chromium is; undefined if it is not installed, which is then printed. Use it with `describe.skipIf`. */
export const browserProgram: string | undefined =
  process.env["PRECIS_CHROMIUM"] ?? findProgram("chromium") ?? findProgram("google-chrome");
if (browserProgram === undefined) {
  console.warn("Chromium is not installed: the playground is not tested. Set PRECIS_CHROMIUM to a browser like it.");
}

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A browser and what its pages complained about. */
export interface TestBrowser extends AsyncDisposable {
  /** Opens an address in a profile of its own. */
  open: (url: string, options?: BrowserContextOptions) => Promise<Page>;
  /** Errors and warnings of the console, exceptions, and requests that failed or were refused, since it was asked last. */
  complaints: () => string[];
  closePages: () => Promise<void>;
}

/** Starts a browser. */
export async function startBrowser(): Promise<TestBrowser> {
  const home = mkdtempSync(join(tmpdir(), "precis-browser-"));
  const browser: Browser = await chromium.launch({
    executablePath: browserProgram as string,
    args: FLAGS,
    // Chromium keeps crash reports and the like outside its profile.
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home } as Record<string, string>,
  });
  let complaints: string[] = [];
  const open: TestBrowser["open"] = async (url, options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(15_000);
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.goto(url);
    return page;
  };
  return {
    open,
    complaints: () => {
      const found = complaints;
      complaints = [];
      return found;
    },
    closePages: async () => {
      for (const context of browser.contexts()) await context.close();
    },
    async [Symbol.asyncDispose]() {
      await browser.close();
      rmSync(home, { recursive: true, force: true });
    },
  };
}
