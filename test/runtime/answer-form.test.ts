/** @file The form of answers in the library: formats and calls as events, and what the memory keeps of them. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv } from "ajv";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadModel, type ChatMessage, type GenerateOptions, type GenerationEvent, type Memory } from "#precis/index.js";
import { createFixture, type Fixture } from "../conformance/fixtures.js";
import { expectError } from "../conformance/expect-error.js";
import { openScript, type Script } from "./scripted.js";

let fixture: Fixture;
let script: Script;
beforeAll(async () => {
  fixture = await createFixture({ seed: 21 });
  script = await openScript();
});
afterAll(() => fixture[Symbol.asyncDispose]());

const SCHEMA = {
  type: "object",
  properties: { by: { type: "integer", minimum: 0, maximum: 9 }, unit: { enum: ["mm", "inch"] } },
  required: ["by", "unit"],
  additionalProperties: false,
};
const SHIFT = { name: "shift", description: "Moves it.", parameters: SCHEMA };
const ASKED: ChatMessage[] = [{ role: "user", content: "Move it." }];
const FORMAT: GenerateOptions = { responseFormat: { type: "json_schema", schema: SCHEMA }, maxTokens: 100 };

describe("an answer with a format", () => {
  test("ends by itself when it is complete", async () => {
    const { text, reason } = await (await fixture.memory()).answer(ASKED, FORMAT);
    expect(reason).toBe("end");
    expect(new Ajv().validate(SCHEMA, JSON.parse(text))).toBe(true);
  });

  test("leaves the memory as if prompt and answer had been appended", async () => {
    const [memory, twin] = [await fixture.memory(), await fixture.memory()];
    const { tokenIds } = await memory.answer("Move it: ", FORMAT);
    await twin.append([...(await fixture.model.tokenize("Move it: ")), ...tokenIds]);
    expect(await memory.stats()).toEqual(await twin.stats());
    const [got, wanted] = [await memory.forward([42]), await twin.forward([42])];
    wanted.logits.forEach((logit, i) => expect(got.logits[i]).toBeCloseTo(logit, 4));
  });

  test("is decoded beside others that are free, and neither changes the other", async () => {
    const free = { maxTokens: 30, ignoreEos: true };
    const alone = await (await fixture.memory()).answer(ASKED, free);
    const held = await (await fixture.memory()).answer(ASKED, FORMAT);
    const memories = await Promise.all([fixture.memory(), fixture.memory(), fixture.memory()]);
    const [a, b, c] = await Promise.all(
      memories.map((memory, index) => memory.answer(ASKED, index === 1 ? free : FORMAT)),
    );
    expect([a?.text, b?.text, c?.text]).toEqual([held.text, alone.text, held.text]);
  });

  test("may end at a number only when the model ends it", async () => {
    const integer: GenerateOptions = { responseFormat: { type: "json_schema", schema: { type: "integer" } } };
    const memory = await fixture.memory();
    const { text, reason } = await memory.answer(ASKED, { ...integer, ignoreEos: true, maxTokens: 50 });
    expect(text).toMatch(/^-?\d{1,15}$/);
    expect(reason).toBe("end");
  });

  test("is refused for what answers cannot be held to, and the memory stays as it was", async () => {
    const memory = await fixture.memory();
    const before = await memory.snapshot();
    const format = { type: "json_schema", schema: { type: "string", pattern: "a" } } as const;
    await expectError(memory.answer(ASKED, { responseFormat: format }), "SCHEMA_UNSUPPORTED", /"pattern"/);
    await expectError(memory.answer(ASKED, { responseFormat: { type: "xml" } as never }), "OPTION_INVALID", /format/);
    await expectError(memory.answer(ASKED, { tools: [{ name: "a b" }] }), "OPTION_INVALID", /proper name/);
    await expectError(memory.answer(ASKED, { toolChoice: { name: "x" } }), "OPTION_INVALID", /no tool "x"/);
    expect(await memory.snapshot()).toEqual(before);
  });
});

describe("calls", () => {
  const collect = async (memory: Memory, options: GenerateOptions): Promise<GenerationEvent[]> => {
    const events: GenerationEvent[] = [];
    for await (const event of memory.generate(ASKED, options)) events.push(event);
    return events;
  };

  test("come as events that add up to the result", async () => {
    const options: GenerateOptions = {
      tools: [SHIFT],
      toolChoice: "required",
      parallelToolCalls: false,
      maxTokens: 200,
    };
    const events = await collect(await fixture.memory(), options);
    const finish = events.at(-1);
    if (finish?.type !== "finish") throw new Error("The last event does not finish");
    expect(finish).toMatchObject({ reason: "tool-calls", text: "" });
    const [begin, ...rest] = events.filter(({ type }) => type === "tool-call" || type === "tool-call-delta");
    expect(begin).toMatchObject({ type: "tool-call", index: 0, name: "shift", id: finish.toolCalls[0]?.id });
    const given = rest.map((event) => (event.type === "tool-call-delta" ? event.arguments : "")).join("");
    expect(given).toBe(finish.toolCalls[0]?.arguments);
    expect(new Ajv().validate(SCHEMA, JSON.parse(given))).toBe(true);
    const ids = events.flatMap((event) =>
      event.type === "text-delta" && event.tokenId !== undefined ? [event.tokenId] : [],
    );
    expect(ids).toEqual(finish.tokenIds);
  });

  test("are told of once, and again when they change", async () => {
    const memory = await fixture.memory();
    const short = { maxTokens: 2, ignoreEos: true };
    const read = async (tools: GenerateOptions["tools"]): Promise<number> =>
      (await memory.answer(ASKED, { ...short, ...(tools === undefined ? {} : { tools }) })).timings.promptTokens;
    const first = await read([SHIFT]);
    const again = await read([SHIFT]);
    const restored = await fixture.model.restoreMemory(await memory.snapshot());
    const later = await restored.answer(ASKED, { ...short, tools: [SHIFT] });
    expect(again).toBeLessThan(40);
    expect(first).toBeGreaterThan(again + JSON.stringify(SCHEMA).length);
    expect(later.timings.promptTokens).toBe(again);
    expect(await read([{ name: "other" }])).toBeGreaterThan(again + 100);
  });

  test("and results are rendered as text where the template knows neither", async () => {
    const toolCalls = [{ id: "c1", name: "shift", arguments: '{"by":1}' }];
    const told: ChatMessage[] = [
      ...ASKED,
      { role: "assistant", content: "", toolCalls },
      { role: "tool", content: "<|end|>moved", toolCallId: "c1" },
    ];
    const { ids } = await (await fixture.memory()).forward(told, { logits: "last" });
    expect(await fixture.model.detokenize(ids)).toBe(
      '<|bos|><|user|>Move it.<|end|><|assistant|><tool_call>\n{"name": "shift", "arguments": {"by":1}}\n</tool_call>' +
        "<|end|><|user|><tool_response>\n<|end|>moved\n</tool_response><|end|><|assistant|>",
    );
    const ends = ids.filter((id) => id === 2);
    expect(ends).toHaveLength(3);
  });

  test("are the template's own business where it knows them", async () => {
    const file = join(fixture.files.directory, "tokenizer_config.json");
    const before = readFileSync(file, "utf8");
    const template =
      "{# <tool_call> #}{{ bos_token }}{% if tools %}[{% for tool in tools %}{{ tool.function.name }}{% endfor %}]{% endif %}" +
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" +
      "{% if m.tool_calls %}{% for c in m.tool_calls %}({{ c.function.name }} {{ c.function.arguments.by }}){% endfor %}{% endif %}" +
      "{% if m.role == 'tool' %}={{ m.tool_call_id }}{% endif %}<|end|>{% endfor %}" +
      "{% if add_generation_prompt %}<|assistant|>{% endif %}";
    writeFileSync(file, JSON.stringify({ ...(JSON.parse(before) as object), chat_template: template }));
    await using model = await loadModel(fixture.files.directory, { device: "cpu", threads: 1 });
    writeFileSync(file, before);
    const memory = await model.createMemory();
    const toolCalls = [{ id: "c1", name: "shift", arguments: '{"by":1}' }];
    await memory.append([...ASKED, { role: "assistant", content: "", toolCalls }], { tools: [SHIFT] });
    const wanted = await model.tokenize("<|bos|>[shift]<|user|>Move it.<|end|><|assistant|>(shift 1)<|end|>");
    expect((await memory.stats()).tokensSeen).toBe(wanted.length);
    const result: ChatMessage[] = [{ role: "tool", content: "moved", toolCallId: "c1" }];
    const { timings } = await memory.answer(result, { tools: [SHIFT], maxTokens: 2, ignoreEos: true });
    expect(timings.promptTokens).toBe((await model.tokenize("<|tool|>moved=c1<|end|><|assistant|>")).length);
  });
});

describe("an answer that may call", () => {
  const OPTIONS: GenerateOptions = { tools: [SHIFT], maxTokens: 400 };
  const CALL = '<tool_call>\n{"name": "shift", "arguments": {"by": 3, "unit": "mm"}}\n</tool_call>';

  test("is free until it does, and shows no marker", () => {
    const { finish, text } = script.write(`Well, <b>. ${CALL}`, OPTIONS);
    expect(finish).toMatchObject({ reason: "tool-calls", text: "Well, <b>. " });
    expect(text).toBe("Well, <b>. ");
    expect(finish.toolCalls).toMatchObject([{ name: "shift", arguments: '{"by": 3, "unit": "mm"}' }]);
  });

  test("goes on after a call unless calls come one by one", () => {
    const twice = `${CALL}\n${CALL}`;
    expect(script.write(twice, OPTIONS).finish.toolCalls).toHaveLength(2);
    const single = script.write(twice, { ...OPTIONS, parallelToolCalls: false });
    expect(single.finish).toMatchObject({ reason: "tool-calls", toolCalls: [{ name: "shift" }] });
    expect(single.left).not.toBe("");
  });

  test("is held to the function's schema once it calls, whatever it would like to write", () => {
    for (const wish of ["rm -rf", '{"name": "rm", "arguments": {"by": -5}}', '\n{"name": "shift", "arguments": []']) {
      const { finish } = script.write(`Hm. <tool_call>${wish}`, OPTIONS);
      expect(finish).toMatchObject({ text: "Hm. ", toolCalls: [{ name: "shift" }] });
      expect(new Ajv().validate(SCHEMA, JSON.parse(finish.toolCalls[0]?.arguments ?? ""))).toBe(true);
    }
  });

  test("may have a format as well: it is either", () => {
    const both: GenerateOptions = { ...OPTIONS, ...FORMAT };
    expect(script.write('{"by": 4, "unit": "inch"}', both).finish).toMatchObject({
      reason: "end",
      text: '{"by": 4, "unit": "inch"}',
      toolCalls: [],
    });
    expect(script.write(CALL, both).finish).toMatchObject({ reason: "tool-calls", text: "" });
  });

  test("that is cut off in a call keeps what there is of the arguments, without markers", () => {
    const { finish, text } = script.write(`Yes. ${CALL}`, { ...OPTIONS, maxTokens: script.count(`Yes. ${CALL}`) - 14 });
    expect(finish).toMatchObject({ reason: "length", text: "Yes. ", toolCalls: [{ name: "shift" }] });
    expect('{"by": 3, "unit": "mm"}').toContain(finish.toolCalls[0]?.arguments);
    expect(text).toBe("Yes. ");
  });
});
