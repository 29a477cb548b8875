/** @file What was said in each session. The server keeps the compressed memory only, so the browser keeps the words. */
import type { MemoryUsage } from "../api/types.js";

/** A turn, or a message that was only remembered. */
export interface Turn {
  /** Whether the model answered, or only took it in. */
  kind: "answer" | "context";
  role: "user" | "assistant";
  text: string;
  answer: string;
  status: "running" | "done" | "stopped" | "failed";
  /** Steps of the session before and after. */
  from: number;
  step: number;
  /** What the session held afterwards. */
  usage?: MemoryUsage | undefined;
  tokensPerSecond?: number;
  reason?: string;
  error?: { message: string; nextStep?: string | undefined };
}

const PREFIX = "precis.transcript.";

function isTurns(value: unknown): value is Turn[] {
  return (
    Array.isArray(value) &&
    value.every(
      (turn: Partial<Turn> | null) =>
        typeof turn?.text === "string" && typeof turn.answer === "string" && typeof turn.step === "number",
    )
  );
}

/** Transcripts in the browser's storage. */
export class Transcripts {
  readonly #storage: Storage;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  /** The turns of a session; none where this browser has not seen it. */
  read(id: string): Turn[] {
    try {
      const turns: unknown = JSON.parse(this.#storage.getItem(PREFIX + id) ?? "[]");
      return isTurns(turns) ? turns : [];
    } catch {
      return [];
    }
  }

  write(id: string, turns: readonly Turn[]): void {
    const finished = turns.filter(({ status }) => status !== "running");
    try {
      this.#storage.setItem(PREFIX + id, JSON.stringify(finished));
    } catch {
      // A full storage costs the words after the next reload, not the memory, which the server has.
    }
  }

  forget(id: string): void {
    this.#storage.removeItem(PREFIX + id);
  }

  /** What a session began with, as its title. */
  title(id: string): string | undefined {
    return this.read(id)[0]?.text;
  }
}
