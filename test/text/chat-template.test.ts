import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { ChatTemplate } from "#precis/text/chat-template.js";
import type { ChatMessage } from "#precis/text/chat-template.js";
import { Tokenizer } from "#precis/text/tokenizer.js";
import { EMBEDDED, sentencePieceDir, writeModelDir } from "./tokenizer-fixtures.js";

const LLAMA3 =
  "{% set loop_messages = messages %}{% for message in loop_messages %}" +
  "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}" +
  "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

const MISTRAL =
  "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
  "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}" +
  "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}" +
  "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}" +
  "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

const MISTRAL_WITH_SYSTEM =
  "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}" +
  "{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}{%- for message in rest %}" +
  "{%- if message['role'] == 'user' %}{%- if loop.last and system is defined %}" +
  "{{- '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}" +
  "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}";

const QWEN2 =
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}" +
  "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" +
  "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const GEMMA =
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" +
  "{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}" +
  "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";

const tokens = { bos_token: "<s>", eos_token: "</s>" };
const dialogue: ChatMessage[] = [
  { role: "user", content: "My cat is called Nori." },
  { role: "assistant", content: "A fine name!" },
  { role: "user", content: " What is my cat called? " },
  { role: "assistant", content: "Nori." },
  { role: "user", content: "Thanks 😀" },
];

/** The pieces of the dialogue, a user message with the answer before it being one time step. */
function pieces(template: ChatTemplate, messages: ChatMessage[]): string[] {
  const cuts = [...messages.keys()].filter((i) => i === 0 || messages[i].role === "assistant");
  return cuts.map((start, i) => {
    const end = cuts[i + 1] ?? messages.length;
    return template.renderTurn(messages.slice(start, end), messages.slice(0, start), {
      addGenerationPrompt: end === messages.length,
    });
  });
}

let embedded: ChatTemplate;

beforeAll(async () => {
  embedded = (await ChatTemplate.load(EMBEDDED)) as ChatTemplate;
});

describe("rendering", () => {
  it("writes the format of the embedded model", () => {
    const messages = [{ role: "system", content: "Be brief." }, dialogue[0]];
    expect(embedded.render(messages, { addGenerationPrompt: true })).toBe(
      "<|bos|><|system|>Be brief.<|end|><|user|>My cat is called Nori.<|end|><|assistant|>",
    );
    expect(embedded.render([dialogue[0]])).toBe("<|bos|><|user|>My cat is called Nori.<|end|>");
  });

  it("lets the caller replace or leave out BOS, and set variables of the template", () => {
    expect(embedded.render([dialogue[0]], { bosToken: "" })).toMatch(/^<\|user\|>/);
    const template = new ChatTemplate("{% if tools %}{{ tools | length }} tools{% else %}none{% endif %}");
    expect(template.render(dialogue)).toBe("none");
    expect(template.render(dialogue, { variables: { tools: [{}, {}] } })).toBe("2 tools");
  });

  it("hashes the source", () => {
    expect(new ChatTemplate(QWEN2).hash).toBe(createHash("sha256").update(QWEN2).digest("hex"));
  });

  it("reports the reason of a template that refuses the messages", () => {
    const template = new ChatTemplate(MISTRAL, tokens);
    expect(() => template.render([dialogue[1]])).toThrow(
      expect.objectContaining({ code: "TEMPLATE_FAILED", message: expect.stringContaining("roles must alternate") }),
    );
    expect(() => new ChatTemplate(GEMMA, tokens).render([{ role: "system", content: "x" }])).toThrow(
      /System role not supported/,
    );
  });

  it("refuses a source that is not Jinja, and messages without text", () => {
    expect(() => new ChatTemplate("{% for %}")).toThrow(expect.objectContaining({ code: "TEMPLATE_FAILED" }));
    const parts = [{ role: "user", content: [{ type: "text" }] }] as unknown as ChatMessage[];
    expect(() => embedded.render(parts)).toThrow(expect.objectContaining({ code: "INPUT_INVALID" }));
  });
});

describe("turn by turn", () => {
  it.each([
    ["Llama 3", LLAMA3],
    ["Mistral", MISTRAL],
    ["Mistral with a place for system messages", MISTRAL_WITH_SYSTEM],
    ["Qwen2", QWEN2],
    ["Gemma", GEMMA],
  ])("the pieces of a %s conversation join to the whole, BOS only in the first", (_name, source) => {
    const template = new ChatTemplate(source, tokens);
    const parts = pieces(template, dialogue);
    expect(parts).toHaveLength(3);
    expect(parts.join("")).toBe(template.render(dialogue, { addGenerationPrompt: true }));
    expect(parts.slice(1).filter((part) => part.includes("<s>"))).toEqual([]);
  });

  it("works for the embedded model with a system message", () => {
    const messages = [{ role: "system", content: "Be brief." }, ...dialogue];
    const parts = pieces(embedded, messages);
    expect(parts.join("")).toBe(embedded.render(messages, { addGenerationPrompt: true }));
    expect(parts[1]).toBe("<|assistant|>A fine name!<|end|><|user|> What is my cat called? <|end|>");
  });

  it("gives the default system message of Qwen2 once", () => {
    expect(pieces(new ChatTemplate(QWEN2), dialogue).map((part) => part.includes("helpful"))).toEqual([
      true,
      false,
      false,
    ]);
  });

  it("explains why a template that moves its system message cannot be fed in turns", () => {
    const template = new ChatTemplate(MISTRAL_WITH_SYSTEM, tokens);
    const messages = [{ role: "system", content: "Be brief." }, ...dialogue];
    expect(() => pieces(template, messages)).toThrow(
      expect.objectContaining({
        code: "TEMPLATE_FAILED",
        message: expect.stringContaining("changes the text of earlier"),
      }),
    );
  });

  it("tokenizes to the same ids in pieces as at once", async () => {
    const tokenizer = await Tokenizer.load(EMBEDDED);
    const whole = tokenizer.encode(embedded.render(dialogue, { addGenerationPrompt: true }));
    expect(pieces(embedded, dialogue).flatMap((part) => tokenizer.encode(part))).toEqual(whole);
  });
});

describe("finding the template of a model", () => {
  it("prefers chat_template.jinja to tokenizer_config.json", async () => {
    const dir = writeModelDir({ "chat_template.jinja": "file", "tokenizer_config.json": { chat_template: "config" } });
    expect((await ChatTemplate.load(dir))?.render([])).toBe("file");
  });

  it("takes the default of several named templates", async () => {
    const named = [
      { name: "tool_use", template: "tools" },
      { name: "default", template: "{{ bos_token }}plain" },
    ];
    const dir = writeModelDir({ "tokenizer_config.json": { chat_template: named, bos_token: { content: "<b>" } } });
    expect((await ChatTemplate.load(dir))?.render([])).toBe("<b>plain");
  });

  it("is undefined for a model without one", async () => {
    expect(await ChatTemplate.load(sentencePieceDir())).toBeUndefined();
  });

  it("refuses one of an unknown form", async () => {
    const dir = writeModelDir({ "tokenizer_config.json": { chat_template: 7 } });
    await expect(ChatTemplate.load(dir)).rejects.toMatchObject({ code: "FILE_INVALID" });
  });
});
