/** @file What clients sent cannot write lines of a log, nor steer the terminal that shows it. */
import { afterEach, expect, test, vi } from "vitest";
import { logText } from "#precis/cli/commands/serve.js";
import { oneLine } from "#precis/format/one-line.js";

afterEach(() => vi.restoreAllMocks());

test("text stays as it is, and signs that steer are spelled", () => {
  expect(oneLine("GET /v1/sessions/zoë 200")).toBe("GET /v1/sessions/zoë 200");
  expect(oneLine("a\r\nb\u001b[2J\u202e\u2028")).toBe("a\\u{d}\\u{a}b\\u{1b}[2J\\u{202e}\\u{2028}");
});

test("a path with a line break makes one line of the server's log", () => {
  const written: string[] = [];
  vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  const path = "/v1/x\n12:00:00 POST /v1/sessions 200\u001b[2J";
  logText({ level: "info", event: "request", method: "GET", path, status: 404, ms: 1, namespace: "default" });
  logText({ level: "info", event: "stream-failed", reason: "a\nb" });
  for (const line of written) expect(line.match(/\n/g)).toHaveLength(1);
  expect(written.join("")).not.toContain("\u001b[2J");
});
