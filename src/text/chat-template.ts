/** @file Chat messages to the text that a model was trained on, by the Jinja template of a model directory. */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { PrecisError } from "../errors.js";
import { readOptional, readTokenizerConfig, SPECIAL_TOKEN_KEYS, specialTokenText } from "./tokenizer-files.js";
import type { JsonObject } from "./tokenizer-files.js";
import { CALL_OPEN } from "../tools/call-format.js";
import type { ToolCall } from "../tools/tool.js";
import type { Tokenizer } from "./tokenizer.js";

/** One message of a conversation. Which roles exist is the template's business. */
export interface ChatMessage {
  role: "system" | "user" | "assistant" | "tool" | (string & {});
  content: string;
  /** Functions that an assistant's message calls. */
  toolCalls?: readonly ToolCall[] | undefined;
  /** Of a message with the role tool: the call whose result it is. */
  toolCallId?: string | undefined;
}

/** Options of {@link ChatTemplate.render} and {@link ChatTemplate.renderTurn}. */
export interface RenderOptions {
  /** End with what makes the model answer, such as `<|assistant|>` (default false). */
  addGenerationPrompt?: boolean;
  /** Text of BOS instead of the tokenizer's; `""` leaves it out. */
  bosToken?: string;
  /** Further variables of the template: `tools`, `enable_thinking`, `date_string`, … */
  variables?: Readonly<Record<string, unknown>>;
}

/**
 * A model's chat template.
 * @example
 * const template = await ChatTemplate.load("models/precis-28m");
 * template?.render([{ role: "user", content: "Hi" }], { addGenerationPrompt: true });
 */
export class ChatTemplate {
  /** The Jinja source. */
  readonly source: string;
  /** sha256 of the source, in hex. */
  readonly hash: string;
  /**
   * What the template reads beside roles and contents: tools that are offered, calls of them, and the role tool. All no
   * for one that has calls written otherwise than as `<tool_call>`, which is the only form that answers are read for.
   */
  readonly reads: { tools: boolean; toolCalls: boolean; toolRole: boolean };
  readonly #template: Template;
  readonly #specialTokens: Readonly<Record<string, string>>;

  /**
   * @param specialTokens values of `bos_token`, `eos_token` and so on, which templates use as variables
   * Throws TEMPLATE_FAILED for a source that is not Jinja.
   */
  constructor(source: string, specialTokens: Readonly<Record<string, string>> = {}) {
    this.source = source;
    this.hash = createHash("sha256").update(source).digest("hex");
    const isKnownForm = source.includes(CALL_OPEN);
    this.reads = {
      tools: isKnownForm && /\btools\b/.test(source),
      toolCalls: isKnownForm && /\btool_calls\b/.test(source),
      toolRole: isKnownForm && /(["'])tool\1/.test(source),
    };
    this.#specialTokens = specialTokens;
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw PrecisError.from(error, "TEMPLATE_FAILED", "The chat template is not valid Jinja", "Correct its syntax.");
    }
  }

  /**
   * The template of a model directory: chat_template.jinja, else `chat_template` of tokenizer_config.json (of several
   * named ones "default", or the first). Undefined for a model without one.
   * @param tokenizer supplies BOS and EOS where tokenizer_config.json does not name them
   */
  static async load(dir: string, tokenizer?: Tokenizer): Promise<ChatTemplate | undefined> {
    const config = await readTokenizerConfig(dir);
    const file = await readOptional(join(dir, "chat_template.jinja"));
    const source = file === undefined ? configuredSource(config.chat_template, dir) : new TextDecoder().decode(file);
    return source === undefined ? undefined : new ChatTemplate(source, specialTokensOf(config, tokenizer));
  }

  /**
   * The text of a whole conversation.
   * Throws TEMPLATE_FAILED with the template's own reason when it refuses the messages.
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    messages.forEach(checkMessage);
    const { addGenerationPrompt = false, bosToken, variables } = options;
    try {
      return this.#template.render({
        ...this.#specialTokens,
        ...(bosToken !== undefined && { bos_token: bosToken }),
        ...variables,
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      const nextStep = "Change the messages to what the template accepts (order and names of roles).";
      throw PrecisError.from(error, "TEMPLATE_FAILED", "The chat template refused the messages", nextStep);
    }
  }

  /**
   * The text that `messages` add after `previous`, so that a conversation can be fed time step by time step: the pieces,
   * joined, are the rendering of all messages. What comes once at the start (BOS, a default system message) is in the
   * first piece, the one with no previous messages.
   * Throws TEMPLATE_FAILED when the template renders the previous messages differently once others follow.
   */
  renderTurn(messages: readonly ChatMessage[], previous: readonly ChatMessage[], options: RenderOptions = {}): string {
    const whole = this.render([...previous, ...messages], options);
    if (previous.length === 0) return whole;
    const before = this.render(previous, { ...options, addGenerationPrompt: false });
    if (whole.startsWith(before)) return whole.slice(before.length);
    let same = 0;
    while (whole[same] === before[same]) same++;
    throw new PrecisError(
      "TEMPLATE_FAILED",
      `The chat template changes the text of earlier messages when new ones follow: ` +
        `${excerpt(before, same)} becomes ${excerpt(whole, same)}.`,
      {
        value: { messages: messages.length, previous: previous.length },
        nextStep: "Render the whole conversation at once, or feed turns without a system message or reasoning.",
      },
    );
  }
}

function excerpt(text: string, at: number): string {
  return JSON.stringify(text.slice(Math.max(0, at - 10), at + 20));
}

function checkMessage(message: ChatMessage, index: number): void {
  if (typeof message?.role === "string" && typeof message.content === "string") return;
  throw new PrecisError("INPUT_INVALID", `Message ${index} must have a string "role" and a string "content".`, {
    value: message,
    nextStep: "Turn content parts into one string first.",
  });
}

function configuredSource(value: unknown, dir: string): string | undefined {
  if (value === undefined || value === null || typeof value === "string") return value ?? undefined;
  const named = Array.isArray(value)
    ? value.map((entry: { name?: unknown; template?: unknown }) => [entry?.name, entry?.template])
    : Object.entries(value);
  const [, source] = named.find(([name]) => name === "default") ?? named[0] ?? [];
  if (typeof source === "string") return source;
  throw new PrecisError("FILE_INVALID", `${join(dir, "tokenizer_config.json")} has a chat_template of unknown form.`, {
    nextStep: "Make it a string, or a list of {name, template}.",
  });
}

function specialTokensOf(config: JsonObject, tokenizer: Tokenizer | undefined): Record<string, string> {
  const tokens: Record<string, string> = {};
  const fallback: Record<string, number | undefined> = { bos_token: tokenizer?.bosId, eos_token: tokenizer?.eosId };
  for (const key of SPECIAL_TOKEN_KEYS) {
    const id = fallback[key];
    const text = specialTokenText(config[key]) ?? (id === undefined ? undefined : tokenizer?.idToToken(id));
    if (text !== undefined) tokens[key] = text;
  }
  return tokens;
}
