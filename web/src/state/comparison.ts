/** @file One input to several memories at once: everything, a window, and a compressed memory. */
import type { AnswerOptions, Client } from "../api/client.js";
import type { MemoryChoice, Message, ModelView } from "../api/types.js";
import { Conversation } from "./conversation.js";
import { Observable } from "./observable.js";
import type { Transcripts } from "./transcripts.js";

/** One memory of the comparison. */
export interface Lane {
  label: string;
  conversation: Conversation;
}

const STORED = "precis.comparison";
/** Slots of the window, unless that were most of the model's context. */
const WINDOW = 128;

function isStored(value: unknown): value is { label: string; id: string }[] {
  return (
    Array.isArray(value) &&
    value.every((lane: Partial<Record<string, unknown>> | null) => typeof lane?.["id"] === "string")
  );
}

/** The comparison of a browser; there is one at a time. */
export class Comparison extends Observable {
  readonly #client: Client;
  readonly #transcripts: Transcripts;
  lanes: Lane[] = [];
  #opening = false;
  #resumed = false;

  constructor(client: Client, transcripts: Transcripts) {
    super();
    this.#client = client;
    this.#transcripts = transcripts;
  }

  get busy(): boolean {
    return this.#opening || this.lanes.some(({ conversation }) => conversation.busy);
  }

  /** Opens the comparison that this browser had before; one that the server has forgotten is gone. */
  async resume(): Promise<void> {
    if (this.#resumed) return;
    this.#resumed = true;
    try {
      const stored: unknown = JSON.parse(localStorage.getItem(STORED) ?? "[]");
      if (!isStored(stored)) return;
      const sessions = await Promise.all(stored.map(({ id }) => this.#client.session(id)));
      this.#setLanes(stored.map(({ label }, index) => ({ label, session: sessions[index] })));
    } catch {
      localStorage.removeItem(STORED);
    }
    await Promise.all(this.lanes.map(({ conversation }) => conversation.refresh()));
  }

  /** Sends a message to all memories at once. */
  async send(text: string, model: ModelView, options: AnswerOptions): Promise<void> {
    await this.#open(model);
    await Promise.all(this.lanes.map(({ conversation }) => conversation.send(text, options)));
    this.changed();
  }

  /** Lets all memories take messages in. */
  async remember(messages: readonly Message[], model: ModelView): Promise<void> {
    await this.#open(model);
    await Promise.all(this.lanes.map(({ conversation }) => conversation.remember(messages)));
    this.changed();
  }

  stop(): void {
    for (const { conversation } of this.lanes) conversation.stop();
  }

  /** Takes all memories back to after a turn; those that cannot go there stay. */
  async rewind(turn: number): Promise<void> {
    const able = this.lanes.filter(({ conversation }) => conversation.kept.has(conversation.stepAfter(turn)));
    await Promise.all(able.map(({ conversation }) => conversation.rewind(turn)));
    this.changed();
  }

  /** Deletes the sessions of the comparison. */
  async clear(): Promise<void> {
    const { lanes } = this;
    this.lanes = [];
    localStorage.removeItem(STORED);
    this.changed();
    await Promise.allSettled(lanes.map(({ conversation }) => conversation.delete()));
  }

  async #open({ precis }: ModelView): Promise<void> {
    if (this.lanes.length > 0) return;
    this.#opening = true;
    this.changed();
    try {
      const window = Math.max(2, Math.min(WINDOW, Math.floor(precis.max_positions / 4)));
      const compressed = compressedChoice(precis);
      const choices: { label: string; memory: MemoryChoice }[] = [
        { label: "Full cache", memory: { method: "full" } },
        { label: `Window of ${window}`, memory: { method: "sliding-window", options: { window } } },
        compressed,
      ];
      const made = await Promise.all(
        choices.map(({ memory }) => this.#client.create(memory, { source: "comparison" })),
      );
      this.#setLanes(choices.map(({ label }, index) => ({ label, session: made[index] })));
      const stored = this.lanes.map(({ label, conversation }) => ({ label, id: conversation.id }));
      localStorage.setItem(STORED, JSON.stringify(stored));
    } finally {
      this.#opening = false;
      this.changed();
    }
  }

  #setLanes(lanes: readonly { label: string; session: Conversation["session"] | undefined }[]): void {
    this.lanes = lanes.flatMap(({ label, session }) =>
      session === undefined
        ? []
        : [{ label, conversation: new Conversation(this.#client, this.#transcripts, session) }],
    );
    for (const { conversation } of this.lanes) conversation.observe(() => this.changed());
    this.changed();
  }
}

/** The memory that stands for compression: the server's default if it compresses, else the first adapter's. */
function compressedChoice(precis: ModelView["precis"]): { label: string; memory: MemoryChoice } {
  const compresses = (method: string | null): boolean =>
    precis.methods.some(({ name, needs_adapter: needs }) => name === method && needs);
  const fallback = precis.adapters.find(({ method }) => compresses(method))?.method;
  const { method } = precis.default_memory;
  if (compresses(method) || fallback === undefined || fallback === null) {
    return { label: compresses(method) ? "Compressed" : "Server's default", memory: {} };
  }
  return { label: "Compressed", memory: { method: fallback } };
}
