/** @file Finds calls in an answer while it is being written, and keeps their markers out of its text. */
import { randomBytes } from "node:crypto";
import { CALL_CLOSE, CALL_OPEN } from "./call-format.js";
import type { ToolCall } from "./tool.js";

/** What a piece of an answer turned out to be. */
export type AnswerPart =
  | { type: "text"; text: string }
  | { type: "call"; index: number; id: string; name: string }
  | { type: "arguments"; index: number; text: string };

/** The usual beginning of a call: its arguments can then be passed on as they come. */
const HEAD = /^\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)/;

/**
 * Reads an answer piece by piece; how it is cut makes no difference to what is found. What looks like a call and is none
 * (no JSON, or of a function that is not offered) is text.
 */
export class CallParser {
  /** The calls so far; the arguments of the last one may be incomplete. */
  readonly calls: ToolCall[] = [];
  readonly #names: ReadonlySet<string>;
  #mode: "text" | "head" | "arguments" | "tail" = "text";
  #held = "";
  /** White space at the beginning and around calls, which is text only if more text follows. */
  #space: string | undefined = "";
  readonly #nesting = new Nesting();
  #parts: AnswerPart[] = [];

  /** @param names functions that are offered */
  constructor(names: Iterable<string>) {
    this.#names = new Set(names);
  }

  /** Whether a call has been opened and is not closed. */
  get inCall(): boolean {
    return this.#mode !== "text";
  }

  /** Takes more text. */
  push(text: string): AnswerPart[] {
    this.#held += text;
    while (this.#advance());
    return this.#taken();
  }

  /** Ends the answer. @param cut whether it was cut off, so that a call that only begins is none */
  end(cut: boolean): AnswerPart[] {
    if (this.#mode === "text")
      this.#say(cut ? this.#held.slice(0, -partialLength(this.#held) || undefined) : this.#held);
    if (this.#mode === "head" && !cut) this.#say(CALL_OPEN + this.#held);
    if (this.calls.length === 0 && this.#space) this.#parts.push({ type: "text", text: this.#space });
    this.#space = undefined;
    this.#held = "";
    return this.#taken();
  }

  #taken(): AnswerPart[] {
    const parts = this.#parts;
    this.#parts = [];
    return parts;
  }

  /** Takes one step with what is held; false where that needs more text. */
  #advance(): boolean {
    switch (this.#mode) {
      case "text":
        return this.#readText();
      case "head":
        return this.#readHead();
      case "arguments":
        return this.#readArguments();
      case "tail":
        return this.#readTail();
    }
  }

  #readText(): boolean {
    const at = this.#held.indexOf(CALL_OPEN);
    const end = at < 0 ? this.#held.length - partialLength(this.#held) : at;
    this.#say(this.#held.slice(0, end));
    this.#held = this.#held.slice(at < 0 ? end : at + CALL_OPEN.length);
    if (at < 0) return false;
    this.#mode = "head";
    return true;
  }

  #readHead(): boolean {
    const head = HEAD.exec(this.#held);
    const name = head === null ? undefined : parsed(head[1] ?? "");
    if (head !== null && this.#isOffered(name)) {
      this.#begin(name);
      this.#held = this.#held.slice(head[0].length);
      this.#mode = "arguments";
      return true;
    }
    const at = this.#held.indexOf(CALL_CLOSE);
    if (at < 0) return false;
    this.#readWhole(this.#held.slice(0, at));
    this.#held = this.#held.slice(at + CALL_CLOSE.length);
    this.#mode = "text";
    return true;
  }

  /** A call of some other order or spacing. */
  #readWhole(body: string): void {
    const value = parsed(body) as { name?: unknown; arguments?: unknown } | null | undefined;
    const given = value?.arguments;
    if (this.#isOffered(value?.name) && typeof given === "object" && given !== null && !Array.isArray(given)) {
      this.#begin(value?.name as string);
      this.#addArguments(JSON.stringify(given));
    } else this.#say(CALL_OPEN + body + CALL_CLOSE);
  }

  #readArguments(): boolean {
    const end = this.#nesting.end(this.#held);
    this.#addArguments(this.#held.slice(0, end));
    this.#held = end === undefined ? "" : this.#held.slice(end);
    if (end === undefined) return false;
    this.#mode = "tail";
    return true;
  }

  /** What closes a call; where something else comes instead, the call is over all the same. */
  #readTail(): boolean {
    const rest = this.#held.replace(/^\s*\}?\s*/, "");
    const closed = rest.startsWith(CALL_CLOSE);
    if (!closed && CALL_CLOSE.startsWith(rest)) return false;
    this.#held = closed ? rest.slice(CALL_CLOSE.length) : this.#held;
    this.#mode = "text";
    return true;
  }

  #isOffered(name: unknown): name is string {
    return typeof name === "string" && this.#names.has(name);
  }

  #begin(name: string): void {
    const call = { id: `call_${randomBytes(12).toString("hex")}`, name, arguments: "" };
    this.#parts.push({ type: "call", index: this.calls.push(call) - 1, id: call.id, name });
    this.#space = "";
  }

  #addArguments(text: string): void {
    const call = this.calls.at(-1);
    if (call === undefined || text === "") return;
    call.arguments += text;
    this.#parts.push({ type: "arguments", index: this.calls.length - 1, text });
  }

  #say(text: string): void {
    const whole = (this.#space ?? "") + text;
    if (this.#space !== undefined && !/\S/.test(whole)) {
      this.#space = whole;
      return;
    }
    this.#space = undefined;
    if (whole !== "") this.#parts.push({ type: "text", text: whole });
  }
}

/** Finds where a JSON object ends that comes in pieces. */
class Nesting {
  #depth = 0;
  #inString = false;
  #isEscaped = false;

  /** Where in this piece the object ends; undefined where it goes on. Ready for another object after its end. */
  end(piece: string): number | undefined {
    for (let at = 0; at < piece.length; at++) {
      const char = piece[at];
      if (this.#inString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (char === "\\") this.#isEscaped = true;
        else if (char === '"') this.#inString = false;
      } else if (char === '"') this.#inString = true;
      else if (char === "{" || char === "[") this.#depth++;
      else if ((char === "}" || char === "]") && --this.#depth === 0) return at + 1;
    }
    return undefined;
  }
}

/** Length of the longest end of a text that begins an opening marker. */
function partialLength(text: string): number {
  for (let length = Math.min(CALL_OPEN.length - 1, text.length); length > 0; length--) {
    if (CALL_OPEN.startsWith(text.slice(text.length - length))) return length;
  }
  return 0;
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
