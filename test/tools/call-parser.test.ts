/** @file Calls in answers: found however the text is cut, and never shown as text. */
import { fc } from "../property.js";
import { describe, expect, test } from "vitest";
import { callText } from "#precis/tools/call-format.js";
import { CallParser, type AnswerPart } from "#precis/tools/call-parser.js";

interface Read {
  text: string;
  calls: { name: string; arguments: string }[];
  parts: AnswerPart[];
}

/** Reads pieces; also checks that parts add up to the calls. */
function read(pieces: readonly string[], cut = false): Read {
  const parser = new CallParser(["weather", "add"]);
  const parts = [...pieces.flatMap((piece) => parser.push(piece)), ...parser.end(cut)];
  const calls: Read["calls"] = [];
  for (const part of parts) {
    if (part.type === "call") calls[part.index] = { name: part.name, arguments: "" };
    if (part.type === "arguments") (calls[part.index] as Read["calls"][number]).arguments += part.text;
  }
  expect(parser.calls.map(({ name, arguments: given }) => ({ name, arguments: given }))).toEqual(calls);
  return { text: parts.map((part) => (part.type === "text" ? part.text : "")).join(""), calls, parts };
}

/** All ways are alike: the text at once, character by character, and cut at random places. */
function readAnyhow(text: string, cut = false): Omit<Read, "parts"> {
  const { text: shown, calls } = read([text], cut);
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(text.length), { maxLength: 6 }), (places) => {
      const cuts = [0, ...places.sort((a, b) => a - b), text.length];
      const pieces = cuts.slice(1).map((end, index) => text.slice(cuts[index], end));
      expect(read(pieces, cut)).toMatchObject({ text: shown, calls });
    }),
    { numRuns: 40, seed: 1 },
  );
  expect(read([...text], cut)).toMatchObject({ text: shown, calls });
  return { text: shown, calls };
}

const WEATHER = { name: "weather", arguments: '{"city": "Por}to\\"", "days": [1, {"x": 2}]}' };
const ADD = { name: "add", arguments: "{}" };

describe("an answer", () => {
  test("without calls is text", () => {
    expect(readAnyhow("One < two <tool and <tool_cal.")).toEqual({ text: "One < two <tool and <tool_cal.", calls: [] });
    expect(readAnyhow("  \n spaced \n")).toEqual({ text: "  \n spaced \n", calls: [] });
    expect(readAnyhow(" \n")).toEqual({ text: " \n", calls: [] });
  });

  test("that is a call has no text", () => {
    expect(readAnyhow(callText(WEATHER))).toEqual({ text: "", calls: [WEATHER] });
    expect(readAnyhow(`\n${callText(WEATHER)}\n`)).toEqual({ text: "", calls: [WEATHER] });
  });

  test("may have text and several calls", () => {
    const text = `Let me see. ${callText(WEATHER)}\n${callText(ADD)}\nDone.`;
    expect(readAnyhow(text)).toEqual({ text: "Let me see. \nDone.", calls: [WEATHER, ADD] });
  });

  test("may write a call in another order or spacing", () => {
    const odd = '<tool_call>{"arguments":{"a":1},"name":"add"}</tool_call>';
    expect(readAnyhow(odd)).toEqual({ text: "", calls: [{ name: "add", arguments: '{"a":1}' }] });
    const spaced = '<tool_call> {\n"name" : "add" , "arguments" : {"a" : 1} }</tool_call>';
    expect(readAnyhow(spaced)).toEqual({ text: "", calls: [{ name: "add", arguments: '{"a" : 1}' }] });
  });

  test("passes arguments on as they come", () => {
    const [before, after] = callText(WEATHER).split("Por");
    const parser = new CallParser(["weather"]);
    expect(parser.push(`${before}`)).toMatchObject([
      { type: "call", index: 0, name: "weather", id: expect.stringMatching(/^call_[0-9a-f]{24}$/) },
      { type: "arguments", text: '{"city": "' },
    ]);
    expect(parser.push("Por")).toEqual([{ type: "arguments", index: 0, text: "Por" }]);
    parser.push(`${after}`);
    expect(parser.calls[0]?.arguments).toBe(WEATHER.arguments);
  });

  test.each([
    ["of a function that is not offered", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'],
    ["that is no JSON", "<tool_call>weather(Porto)</tool_call>"],
    ["whose arguments are no object", '<tool_call>{"name": "add", "arguments": 1}</tool_call>'],
    ["that is null", "<tool_call>null</tool_call>"],
    ["that never ends", '<tool_call>{"name": "add"'],
  ])("with a call %s is text", (_, text) => {
    expect(readAnyhow(text)).toEqual({ text, calls: [] });
  });

  test("that is cut off shows no beginnings of calls, and what there is of arguments", () => {
    expect(readAnyhow("Well. <tool_ca", true)).toEqual({ text: "Well. ", calls: [] });
    expect(readAnyhow('Well. <tool_call>\n{"name": "ad', true)).toEqual({ text: "Well. ", calls: [] });
    const cut = '<tool_call>{"name": "add", "arguments": {"a": 1';
    expect(readAnyhow(cut, true)).toEqual({ text: "", calls: [{ name: "add", arguments: '{"a": 1' }] });
  });
});
