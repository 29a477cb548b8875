/** @file Conversations as token ids, piece by piece, exactly as a memory renders messages that come one at a time. */
import { PrecisError } from "../errors.js";
import type { ChatMessage, ChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";

/** Messages that the next one is rendered after; templates look at neighbours, not at the distant past. */
const KEPT_MESSAGES = 8;

/** A message in a template that puts fixed text around each one. */
interface Frame {
  before: string;
  after: string;
}

/** What such a template is made of. */
interface PlainTemplate {
  start: string;
  frames: Readonly<Record<string, Frame>>;
  generationPrompt: string;
}

/** The token ids of conversations under one tokenizer and template. */
export class ChatPieces {
  readonly tokenizer: Tokenizer;
  readonly #template: ChatTemplate;
  /** Rendering by Jinja costs more than tokenizing, so templates that allow it are rendered by joining strings. */
  readonly #plain: PlainTemplate | undefined;

  constructor(tokenizer: Tokenizer, template: ChatTemplate) {
    this.tokenizer = tokenizer;
    this.#template = template;
    this.#plain = recognisePlain(template);
  }

  /** The ids that `messages` add after `previous`. */
  step(messages: readonly ChatMessage[], previous: readonly ChatMessage[]): number[] {
    return this.#encode(this.#render(messages, previous, false));
  }

  /** The ids of `asked` after `previous`, up to where a message of `role` begins. */
  prompt(asked: readonly ChatMessage[], previous: readonly ChatMessage[], role = "assistant"): number[] {
    if (role === "assistant") return this.#encode(this.#render(asked, previous, true));
    const { opening } = this.#around({ role, content: "…" }, [...previous, ...asked]);
    return [...this.step(asked, previous), ...this.#encode(opening)];
  }

  /** The ids of an answer after the opening of its message, up to and with its end token. */
  answer(content: string, asked: readonly ChatMessage[], role = "assistant"): number[] {
    const { closing } = this.#around({ role, content }, asked);
    const ids = this.#encode(this.tokenizer.shield(content));
    const after = this.#encode(closing);
    const end = after.findIndex((id) => this.tokenizer.specialIds.has(id));
    return [...ids, ...after.slice(0, end + 1)];
  }

  /** The ids of an answer's text alone, as candidates are scored. */
  answerText(content: string): number[] {
    return this.#encode(this.tokenizer.shield(content));
  }

  #around(message: ChatMessage, previous: readonly ChatMessage[]): { opening: string; closing: string } {
    const whole = this.#render([message], previous, false);
    const content = this.tokenizer.shield(message.content);
    const at = whole.lastIndexOf(content);
    if (at >= 0) return { opening: whole.slice(0, at), closing: whole.slice(at + content.length) };
    throw new PrecisError("TEMPLATE_FAILED", "The chat template changes the text of messages.", {
      value: message.content.slice(0, 100),
      nextStep: "Use a template that keeps it, apart from white space around it.",
    });
  }

  #render(messages: readonly ChatMessage[], previous: readonly ChatMessage[], addGenerationPrompt: boolean): string {
    const shielded = this.#shielded(messages);
    const plain = this.#plain;
    if (plain !== undefined && shielded.every(({ role }) => Object.hasOwn(plain.frames, role))) {
      const pieces = shielded.map(({ role, content }) => {
        const { before, after } = plain.frames[role] as Frame;
        return before + content + after;
      });
      const start = previous.length === 0 ? plain.start : "";
      return start + pieces.join("") + (addGenerationPrompt ? plain.generationPrompt : "");
    }
    return this.#template.renderTurn(shielded, this.#shielded(recent(previous)), { addGenerationPrompt });
  }

  #shielded(messages: readonly ChatMessage[]): ChatMessage[] {
    return messages.map(({ role, content }) => ({ role, content: this.tokenizer.shield(content) }));
  }

  #encode(text: string): number[] {
    return this.tokenizer.encode(text, { addSpecialTokens: false });
  }
}

/** A system message and the latest others, an even number cut so that roles still alternate from the user's. */
function recent(messages: readonly ChatMessage[]): ChatMessage[] {
  const system = messages[0]?.role === "system" ? messages.slice(0, 1) : [];
  const excess = Math.max(0, messages.length - system.length - KEPT_MESSAGES);
  return [...system, ...messages.slice(system.length + excess + (excess % 2))];
}

/** Finds the fixed texts of a template, or undefined if what surrounds a message depends on more than its role. */
function recognisePlain(template: ChatTemplate): PlainTemplate | undefined {
  // White space around the probes shows whether the template trims.
  const probe = Array.from({ length: 12 }, (_, index) => ({
    role: index % 2 === 0 ? "user" : "assistant",
    content: ` probe ${index} `,
  }));
  try {
    const pieces = probe.map((message, index) => template.renderTurn([message], probe.slice(0, index)));
    const frames = { user: frameOf(pieces[2], probe[2]), assistant: frameOf(pieces[1], probe[1]) };
    const first = frameOf(pieces[0], probe[0]);
    if (!first.before.endsWith(frames.user.before)) return undefined;
    const start = first.before.slice(0, first.before.length - frames.user.before.length);
    const opened = template.renderTurn(probe.slice(10, 11), probe.slice(0, 10), { addGenerationPrompt: true });
    const generationPrompt = opened.slice((pieces[10] as string).length);
    const joined = probe.map(({ role, content }) => {
      const { before, after } = frames[role as keyof typeof frames];
      return before + content + after;
    });
    const alike = joined.every((piece, index) => (index === 0 ? start : "") + piece === pieces[index]);
    return alike ? { start, frames, generationPrompt } : undefined;
  } catch {
    return undefined;
  }
}

function frameOf(piece = "", message: ChatMessage = { role: "", content: "" }): Frame {
  const at = piece.indexOf(message.content);
  if (at < 0) throw new Error("The message is not in its rendering.");
  return { before: piece.slice(0, at), after: piece.slice(at + message.content.length) };
}
