/** @file The page's state: the server, its sessions, the one that is open, and the comparison. */
import { Client, RequestFailure, type AnswerOptions } from "../api/client.js";
import type { MemoryChoice, Message, ModelView, SessionView } from "../api/types.js";
import { Comparison } from "./comparison.js";
import { Conversation } from "./conversation.js";
import { Observable } from "./observable.js";
import { Transcripts } from "./transcripts.js";

/** Whether the page can talk to the server. */
export type Connection = { status: "loading" | "ready" } | { status: "key-needed"; wrong: boolean } | Failure;

/** Something that did not work. */
export interface Failure {
  status: "failed";
  message: string;
  nextStep?: string | undefined;
}

/** What the page shows. */
export type Mode = "chat" | "compare";

const KEY = "precis.key";

function failureOf(error: unknown): Failure {
  const nextStep = error instanceof RequestFailure ? error.nextStep : undefined;
  return { status: "failed", message: error instanceof Error ? error.message : String(error), nextStep };
}

/** What the whole page works with. */
export class Playground extends Observable {
  readonly client: Client;
  readonly transcripts: Transcripts;
  readonly comparison: Comparison;
  connection: Connection = { status: "loading" };
  mode: Mode = "chat";
  model: ModelView | undefined;
  /** Sessions but those of comparisons, newest first. */
  sessions: SessionView[] = [];
  current: Conversation | undefined;
  /** The memory of the next session. */
  choice: MemoryChoice = {};
  options: AnswerOptions = { maxTokens: 128, temperature: 0 };
  /** The latest thing that went wrong outside a conversation. */
  notice: Failure | undefined;
  #opening = false;
  /** Those that were opened, as an answer may go on in one while another is looked at. */
  readonly #conversations = new Map<string, Conversation>();

  constructor() {
    super();
    // A key is worth stealing, so it goes when the tab does.
    this.client = new Client(sessionStorage.getItem(KEY) ?? undefined);
    this.transcripts = new Transcripts(localStorage);
    this.comparison = new Comparison(this.client, this.transcripts);
  }

  /** Whether an answer is being written where one looks. */
  get busy(): boolean {
    if (this.mode === "compare") return this.comparison.busy;
    return this.#opening || this.current?.busy === true;
  }

  /** Asks the server what there is, and opens what the address names. */
  async connect(): Promise<void> {
    try {
      const [model] = await this.client.models();
      this.model = model;
      await this.#readSessions();
      this.connection = { status: "ready" };
      await this.follow(location.hash);
    } catch (error) {
      const refused = error instanceof RequestFailure && error.status === 401;
      const wrong = sessionStorage.getItem(KEY) !== null;
      this.connection = refused ? { status: "key-needed", wrong } : failureOf(error);
    }
    this.changed();
  }

  /** Tries an API key. */
  async useKey(key: string): Promise<void> {
    sessionStorage.setItem(KEY, key);
    this.client.setKey(key);
    this.connection = { status: "loading" };
    this.changed();
    await this.connect();
  }

  /** Shows what an address names: `#compare`, `#s/ID`, or a new session. */
  async follow(hash: string): Promise<void> {
    this.mode = hash === "#compare" ? "compare" : "chat";
    const id = /^#s\/([A-Za-z0-9_-]+)$/.exec(hash)?.[1];
    if (this.mode === "chat" && id !== this.current?.id) await this.#open(id);
    if (this.mode === "compare") await this.comparison.resume();
    this.changed();
  }

  setOptions(options: Partial<AnswerOptions>): void {
    this.options = { ...this.options, ...options };
    this.changed();
  }

  setChoice(choice: MemoryChoice): void {
    this.choice = choice;
    this.changed();
  }

  dismiss(): void {
    this.notice = undefined;
    this.changed();
  }

  /** Asks in the open session, or in a new one. */
  async send(text: string): Promise<void> {
    await this.#attempt(async () => {
      const conversation = await this.#opened(text);
      await conversation?.send(text, this.options);
    });
  }

  /** Takes messages into the open session, or into a new one, without an answer. */
  async remember(messages: readonly Message[]): Promise<void> {
    await this.#attempt(async () => {
      const conversation = await this.#opened(messages[0]?.content ?? "");
      await conversation?.remember(messages);
    });
  }

  /** Does something with the comparison, and shows what goes wrong. */
  async compare(work: (comparison: Comparison) => Promise<void>): Promise<void> {
    await this.#attempt(() => work(this.comparison));
  }

  /** Takes the open session back to after a turn, or, with -1, to the beginning. */
  async rewind(turn: number): Promise<void> {
    await this.#attempt(async () => this.current?.rewind(turn));
  }

  /** Copies the open session as it was after a step, and opens the copy. */
  async fork(step: number): Promise<void> {
    await this.#attempt(async () => {
      const fork = await this.current?.fork(step);
      if (fork !== undefined) this.#go(`#s/${fork.id}`);
    });
  }

  async deleteCurrent(): Promise<void> {
    await this.#attempt(async () => {
      await this.current?.delete();
      this.#conversations.delete(this.current?.id ?? "");
      this.#go("#new");
    });
  }

  #go(hash: string): void {
    location.hash = hash;
  }

  async #opened(title: string): Promise<Conversation | undefined> {
    if (this.current !== undefined) return this.current;
    if (this.#opening) return undefined;
    this.#opening = true;
    this.changed();
    try {
      const metadata = { source: "playground", title: title.slice(0, 80) };
      const session = await this.client.create(this.choice, metadata);
      this.current = this.#conversation(session);
      this.sessions = [session, ...this.sessions];
      history.replaceState(null, "", `#s/${session.id}`);
    } finally {
      this.#opening = false;
      this.changed();
    }
    return this.current;
  }

  async #open(id: string | undefined): Promise<void> {
    if (id === undefined) {
      this.current = undefined;
      return;
    }
    await this.#attempt(async () => {
      const conversation = this.#conversation(await this.client.session(id));
      this.current = conversation;
      this.changed();
      if (!conversation.busy) await conversation.refresh();
    });
  }

  #conversation(session: SessionView): Conversation {
    const known = this.#conversations.get(session.id);
    if (known !== undefined) return known;
    const conversation = new Conversation(this.client, this.transcripts, session);
    this.#conversations.set(session.id, conversation);
    return conversation;
  }

  async #attempt(work: () => Promise<void>): Promise<void> {
    this.notice = undefined;
    try {
      await work();
      await this.#readSessions();
    } catch (error) {
      this.notice = failureOf(error);
    }
    this.changed();
  }

  async #readSessions(): Promise<void> {
    const sessions = await this.client.sessions();
    this.sessions = sessions
      .filter(({ metadata }) => metadata["source"] !== "comparison")
      .sort((a, b) => b.last_used_at - a.last_used_at);
  }
}
