/** @file The command line explains itself, and fails with a code, a message, a next step and an exit code. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CommanderError } from "commander";
import { beforeAll, describe, expect, test } from "vitest";
import { PrecisError } from "#precis/errors.js";
import { describeError } from "#precis/cli/report-error.js";
import { MEMORY_METHODS } from "#precis/memory/registry.js";
import { writeRandomModel } from "../reference/random-model.js";
import { precis, start, testFolder } from "./precis.js";

const folder = testFolder();

beforeAll(() => {
  writeRandomModel(folder("model"), { layers: 2, hiddenSize: 32, seed: 3 });
  writeRandomModel(folder("cut"), { layers: 2, hiddenSize: 32, seed: 3 });
  truncateSync(join(folder("cut"), "model.safetensors"), 5000);
  writeFileSync(folder("ids.json"), '{"steps": [[7, 8]]}');
  writeFileSync(folder("bad.json"), '{"steps": [[7, "x"]]}');
});

describe("help", () => {
  test("without arguments, of the whole and of its commands", async () => {
    const { code, stdout } = await precis([]);
    expect(code).toBe(0);
    for (const command of ["chat", "serve", "ingest", "worker", "replay", "inspect", "methods", "models", "pull"])
      expect(stdout).toContain(command);
    expect(stdout).toContain("Exit codes:");
  });

  test.each(["chat", "serve", "ingest", "worker", "replay", "inspect", "merge", "methods", "models", "pull"])(
    "%s teaches by examples",
    async (command) => {
      const { code, stdout } = await precis([command, "--help"]);
      expect(code).toBe(0);
      expect(stdout).toMatch(/^Examples:\n( {2}\$ precis .+\n){2,}/m);
    },
  );

  test("the version is that of the package", async () => {
    expect((await precis(["--version"])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe("precis methods", () => {
  test("--json lists every method with its options", async () => {
    const { stdout } = await precis(["methods", "--json"]);
    const methods = JSON.parse(stdout) as Record<string, unknown>[];
    expect(methods.map(({ name }) => name)).toEqual(MEMORY_METHODS.map(({ name }) => name));
    const streaming = methods.find(({ name }) => name === "streaming");
    expect(streaming).toMatchObject({ needsAdapter: false, options: { window: { default: 256, min: 2 } } });
  });

  test("the text names each option with its default", async () => {
    const { stdout } = await precis(["methods"]);
    for (const { name, options } of MEMORY_METHODS) {
      expect(stdout).toContain(name);
      for (const [option, spec] of Object.entries(options)) expect(stdout).toContain(`${option}=${spec.default}`);
    }
  });
});

describe("errors", () => {
  const inspect = (steps: string, ...more: string[]): string[] => {
    return ["inspect", "--device", "cpu", "--model", folder("model"), "--steps", folder(steps), ...more];
  };
  const cases: [name: string, args: () => string[], exitCode: number, code: string][] = [
    ["an unknown command", () => ["chatt"], 2, "OPTION_INVALID"],
    ["an unknown option", () => ["chat", "--nope"], 2, "OPTION_INVALID"],
    ["an unknown method", () => inspect("ids.json", "--method", "nope"), 2, "METHOD_UNKNOWN"],
    [
      "an option out of range",
      () => inspect("ids.json", "--method", "streaming", "--set", "window=0"),
      2,
      "OPTION_INVALID",
    ],
    ["a method without its adapter", () => inspect("ids.json", "--method", "gist"), 2, "OPTION_INVALID"],
    ["no input to score", () => inspect("ids.json", "--nll", folder("nll.json")), 2, "INPUT_INVALID"],
    ["a missing file", () => inspect("nowhere.json"), 3, "FILE_NOT_FOUND"],
    ["a missing model", () => ["replay", "--model", folder("nowhere")], 3, "FILE_NOT_FOUND"],
    ["a file that is not what it should be", () => inspect("bad.json"), 5, "FILE_INVALID"],
    ["cut-off weights", () => inspect("ids.json", "--model", folder("cut")), 5, "WEIGHTS_INVALID"],
  ];

  test.each(cases)("%s", async (_name, args, exitCode, code) => {
    const { code: exit, stdout, stderr } = await precis(args());
    expect({ exit, stdout }).toEqual({ exit: exitCode, stdout: "" });
    expect(stderr).toMatch(new RegExp(`^error \\[${code}\\]: .+\n {2}→ .+\n$`));
  });

  test("--json makes them JSON", async () => {
    const { code, stdout, stderr } = await precis(inspect("nowhere.json", "--json"));
    expect({ code, stdout }).toEqual({ code: 3, stdout: "" });
    const { error } = JSON.parse(stderr) as { error: Record<string, unknown> };
    expect(error).toMatchObject({ code: "FILE_NOT_FOUND", exitCode: 3 });
    expect(error["message"]).not.toContain(error["nextStep"]);
  });

  test("PRECIS_DEBUG=1 adds the stack", async () => {
    const { stderr } = await start(inspect("nowhere.json"), { PRECIS_DEBUG: "1" }).finished;
    expect(stderr).toMatch(/\n +at /);
  });

  test("of each class have exit codes of their own", () => {
    const exitCode = (code: PrecisError["code"]): number => describeError(new PrecisError(code, "")).exitCode;
    expect(exitCode("DEVICE_UNAVAILABLE")).toBe(4);
    expect(exitCode("ENGINE_FAILED")).toBe(4);
    expect(exitCode("OUT_OF_MEMORY")).toBe(4);
    expect(exitCode("SNAPSHOT_CORRUPT")).toBe(5);
    expect(exitCode("ADAPTER_INVALID")).toBe(5);
    expect(exitCode("ABORTED")).toBe(130);
    expect(describeError(new CommanderError(1, "x", "error: y")).exitCode).toBe(2);
    expect(describeError(new TypeError("oops"))).toMatchObject({ code: "INTERNAL", exitCode: 1 });
  });

  test("Ctrl-C cancels work cleanly", async () => {
    const { child, seen, finished } = start(["replay", "--device", "cpu", "--model", folder("model")]);
    await seen(/TURN/);
    child.kill("SIGINT");
    const { code, stderr } = await finished;
    expect(code).toBe(130);
    expect(stderr).toMatch(/^error \[ABORTED\]: .+\n$/);
  });
});
