/** @file The playground in a real browser, on the embedded model: what people see and do there. */
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { loadModel, type LanguageModel } from "#precis/index.js";
import { createApp, listen, readPage, type Listening, type ServedModel } from "#precis/server/index.js";
import { browserProgram, startBrowser, type TestBrowser } from "./browser.js";

const MODEL = fileURLToPath(new URL("../../models/precis-28m", import.meta.url));
const BUILT = fileURLToPath(new URL("../../dist/web", import.meta.url));

let model: LanguageModel;
let browser: TestBrowser;
let open: Listening;
let locked: Listening;

async function serve(keys: { key: string; namespace: string }[]): Promise<Listening> {
  const adapters = [{ name: "ccm-concat", directory: `${MODEL}/adapters/ccm-concat`, method: "ccm-concat" }];
  const setup = { adapter: "ccm-concat", method: "ccm-concat" };
  const served: ServedModel = { id: "precis-28m", model, adapters, setup, created: 1 };
  const app = createApp([served], { keys, page: await readPage(BUILT) });
  return listen(app, { host: "127.0.0.1", port: 0 });
}

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message").fill(text);
  await page.getByLabel("Message").press("Enter");
  await page.getByRole("button", { name: "Stop" }).waitFor();
  await page.getByRole("button", { name: "Send" }).waitFor();
}

async function remember(page: Page, ...texts: string[]): Promise<void> {
  for (const text of texts) {
    await page.getByLabel("Message").fill(text);
    await page.getByRole("button", { name: "Remember only" }).click();
    await page.getByText(text).last().waitFor();
    await page.getByRole("button", { name: "Send" }).waitFor();
  }
}

const stepsShown = (page: Page): Promise<string[]> => page.locator(".turn-foot > .quiet").allInnerTexts();
const background = (page: Page): Promise<string> => page.evaluate("getComputedStyle(document.body).backgroundColor");
const overflow = (page: Page): Promise<number> =>
  page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");

describe.skipIf(browserProgram === undefined)("the playground", () => {
  beforeAll(async () => {
    model = await loadModel(MODEL, { device: "cpu", threads: 1 });
    [browser, open, locked] = await Promise.all([
      startBrowser(),
      serve([]),
      serve([{ key: "sk-right", namespace: "right" }]),
    ]);
  });
  afterEach(async () => {
    await browser.closePages();
    expect(browser.complaints()).toEqual([]);
  });
  afterAll(async () => {
    await browser?.[Symbol.asyncDispose]();
    await Promise.all([open?.close(), locked?.close()]);
    await model?.dispose();
  });

  test("shows what is remembered, and how much of it the last answer looked at", async () => {
    const page = await browser.open(open.url);
    await page.getByRole("button", { name: "Remember an example" }).click();
    await page.getByText("Step 6 ·").waitFor();
    await page.getByText("No answer yet").waitFor();
    await ask(page, "Yes, please book a table for three people at 7 pm.");
    const answer = await page.locator(".said.assistant").last().innerText();
    expect(answer.trim()).not.toBe("");
    // Six steps of four slots and a sink were there before the answer; afterwards there are four more.
    const map = page.getByRole("grid", { name: "Memory map" });
    await page.getByText("the question and the answer so far").waitFor();
    expect(await map.getAttribute("aria-rowcount")).toBe("25");
    expect(await map.getAttribute("aria-colcount")).toBe("8");
    const shares = await page.locator(".steps .number").allInnerTexts();
    expect(shares.length).toBe(7);
    const total = shares.reduce((sum, share) => sum + Number.parseFloat(share), 0);
    expect(Math.abs(total - 100)).toBeLessThan(2);
    await page.getByRole("button", { name: "Held now" }).click();
    expect(await map.getAttribute("aria-rowcount")).toBe("29");
    await page.getByText("29 slots").first().waitFor();
    await page.getByRole("img", { name: /^Bytes after each of 7 turns\. Latest: Full cache .*Held 475 kB/ }).waitFor();
  });

  test("tells of the cell that is pointed at which step wrote it, and what was said then", async () => {
    const page = await browser.open(open.url);
    await remember(page, "The first thing.", "The second thing.");
    await page.getByRole("grid").waitFor();
    const box = (await page.locator(".map canvas").boundingBox()) ?? { x: 0, y: 0, width: 0, height: 0 };
    await page.mouse.move(box.x + box.width - 10, box.y + box.height - 4);
    await page.locator(".cell-detail").getByText("The second thing.").waitFor();
    expect(await page.locator(".cell-detail").innerText()).toMatch(
      /^Step 2, tokens \d+–\d+\s+Layer 8, slot 9: compressed/,
    );
  });

  test("works with the keyboard alone", async () => {
    const page = await browser.open(open.url);
    await page.getByText("Talk, and watch").waitFor();
    // The message field has the focus from the start.
    await page.keyboard.type("Hello there.");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("How are you?");
    await page.keyboard.press("Enter");
    await page.getByText("Step 1 ·").waitFor();
    expect(await page.locator(".said.user").innerText()).toContain("Hello there.\nHow are you?");
    const map = page.getByRole("grid");
    await map.waitFor();
    let reached = false;
    for (let presses = 0; presses < 25 && !reached; presses++) {
      await page.keyboard.press("Tab");
      reached = await page.evaluate<boolean>("document.activeElement?.getAttribute('role') === 'grid'");
    }
    expect(reached).toBe(true);
    for (const key of ["ArrowDown", "ArrowDown", "ArrowRight"]) await page.keyboard.press(key);
    const cell = page.getByRole("gridcell");
    expect(await cell.textContent()).toMatch(/^Layer 2, slot 3, compressed, Step 1$/);
    expect(await map.getAttribute("aria-activedescendant")).toBe(await cell.getAttribute("id"));
    await page.keyboard.press("End");
    expect(await cell.textContent()).toMatch(/slot 5/);
    await page.keyboard.press("Tab");
    expect(await cell.count()).toBe(0);
  });

  test("forks a session and goes back to an earlier step", async () => {
    const page = await browser.open(open.url);
    await remember(page, "One.", "Two.", "Three.");
    const trunk = page.url();
    await page.getByRole("button", { name: "Fork after step 2" }).click();
    await page.getByText("forked from").waitFor();
    expect(page.url()).not.toBe(trunk);
    expect(await stepsShown(page)).toEqual(["Step 1 · remembered", "Step 2 · remembered"]);
    await remember(page, "Another three.");
    await page.getByRole("link", { name: /^sess_/ }).click();
    await page.waitForURL(trunk);
    await page.getByText("Three.", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Rewind to here (step 1)" }).click();
    await page.getByText("Two.", { exact: true }).waitFor({ state: "detached" });
    expect(await stepsShown(page)).toEqual(["Step 1 · remembered"]);
    await page.getByText("5 slots for").waitFor();
    await page.reload();
    await page.getByText("One.", { exact: true }).last().waitFor();
    expect(await stepsShown(page)).toEqual(["Step 1 · remembered"]);
    await page.getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByText("Talk, and watch").waitFor();
    expect(await page.locator(`a[href="${new URL(trunk).hash}"]`).count()).toBe(0);
  });

  test("stops an answer, of which nothing is remembered", async () => {
    const page = await browser.open(open.url);
    await remember(page, "Remember this.");
    await ask(page, "What did I say?");
    await page.getByText("Options").click();
    await page.getByLabel("Longest answer").fill("600");
    // An answer that ends by itself too early would leave nothing to stop.
    await page.route("**/v1/chat/completions", (route) =>
      route.continue({ postData: { ...(route.request().postDataJSON() as object), ignore_eos: true } }),
    );
    await page.getByLabel("Message").fill("Tell me a long story about it.");
    await page.getByLabel("Message").press("Enter");
    await page.locator(".said.assistant").filter({ hasText: /\w/ }).nth(1).waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText("Nothing of this turn was remembered").waitFor();
    await page.getByText("in 2 steps").waitFor();
    // What the answer before looked at is still to be seen.
    await page.getByText("the question and the answer so far").waitFor();
  });

  test("sends one input to three memories side by side", async () => {
    const page = await browser.open(`${open.url}/#compare`);
    // More than the window holds.
    await remember(page, "My sister Clara is coming to Oakland, and she loves Italian food. ".repeat(10).trim());
    await ask(page, "Could you book a table for us?");
    const lanes = page.locator(".lane");
    expect(await lanes.locator("h2").allInnerTexts()).toEqual(["Full cache", "Window of 128", "Compressed"]);
    const bytes = await lanes.locator("header b").allInnerTexts();
    expect(bytes.slice(1)).toEqual(["2.10 MB", "147 kB"]);
    for (const lane of await lanes.all()) {
      expect((await lane.locator(".said.assistant").last().innerText()).trim()).not.toBe("");
      await lane.getByText("or more").waitFor();
    }
    await page.reload();
    await page.getByText("Step 2 ·").nth(2).waitFor();
    await lanes.nth(2).getByRole("button", { name: "Rewind to here (step 1)" }).click();
    await page.getByText("Step 2 ·").first().waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Delete all three" }).click();
    await page.getByText("One input, three memories").waitFor();
  });

  test("goes on with the others where one memory is full", async () => {
    const page = await browser.open(`${open.url}/#compare`);
    const lanes = page.locator(".lane");
    await page.getByLabel("Message").fill("Clara likes the sea, and Leo likes the hills. ".repeat(90));
    await page.getByRole("button", { name: "Remember only" }).click();
    await lanes.first().getByRole("alert").getByText("The model takes 1024 positions").waitFor();
    await lanes.nth(1).getByText("Step 1 · remembered").waitFor();
    await remember(page, "Something short.");
    for (const [lane, step] of [1, 2, 1].entries()) {
      await lanes.nth(lane).getByText(`Step ${step} · remembered`).waitFor();
    }
    await lanes.nth(1).getByRole("button", { name: "Rewind to here" }).click();
    await page.getByText("Something short.").first().waitFor({ state: "detached" });
    // Each is where it was then, though their steps have different numbers.
    await expect.poll(() => lanes.locator("header b").allInnerTexts()).toEqual(["0 B", "2.10 MB", "0 B"]);
    expect(browser.complaints().every((complaint) => complaint.includes("400"))).toBe(true);
  });

  test("asks for a key where the server wants one", async () => {
    const page = await browser.open(locked.url);
    await page.getByLabel("API key").fill("sk-wrong");
    await page.getByRole("button", { name: "Continue" }).click();
    await page.getByText("The server does not know this key.").waitFor();
    await page.getByLabel("API key").fill("sk-right");
    await page.getByLabel("API key").press("Enter");
    await remember(page, "Something private.");
    await page.reload();
    await page.getByText("Something private.").last().waitFor();
    // The browser itself reports the refusals.
    expect(browser.complaints().every((complaint) => complaint.includes("401"))).toBe(true);
  });

  test("follows the system's theme, or the one that was chosen", async () => {
    const page = await browser.open(open.url, { colorScheme: "dark" });
    await page.getByText("Theme: system").waitFor();
    const dark = await background(page);
    await page.emulateMedia({ colorScheme: "light" });
    await expect.poll(() => background(page)).not.toBe(dark);
    await page.getByRole("button", { name: "Theme: system" }).click();
    await page.getByRole("button", { name: "Theme: light" }).click();
    expect(await background(page)).toBe(dark);
    await page.reload();
    await page.getByText("Theme: dark").waitFor();
    expect(await background(page)).toBe(dark);
  });

  test("fits on a phone", async () => {
    const phone = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
    const page = await browser.open(open.url, phone);
    await remember(page, "A message that is long enough to take more than a line on a phone’s screen.");
    expect(await overflow(page)).toBe(0);
    await page.getByRole("button", { name: "Memory", exact: true }).click();
    await page.getByRole("grid").waitFor();
    expect(await overflow(page)).toBe(0);
    expect(await page.getByLabel("Message").isVisible()).toBe(false);
    await page.getByRole("button", { name: "Conversation" }).click();
    await page.getByRole("link", { name: "Compare" }).click();
    await remember(page, "Hello.");
    await page.getByRole("button", { name: "Window of 128" }).click();
    await page.getByRole("grid", { name: "Window of 128 map" }).waitFor();
    expect(await page.getByRole("grid", { name: "Full cache map" }).isVisible()).toBe(false);
    expect(await overflow(page)).toBe(0);
  });

  test("says what is wrong: a session that is gone, and a server that is gone", async () => {
    const passing = await serve([]);
    const page = await browser.open(`${passing.url}/#s/sess_nowhere`);
    await page.getByRole("alert").getByText('There is no session "sess_nowhere"').waitFor();
    await page.getByRole("button", { name: "Dismiss" }).click();
    await passing.close();
    await page.getByLabel("Message").fill("Anybody there?");
    await page.getByLabel("Message").press("Enter");
    await page.getByRole("alert").getByText("The server cannot be reached.").waitFor();
    expect(browser.complaints().every((text) => /404|ERR_CONNECTION_REFUSED/.test(text))).toBe(true);
  });
});
