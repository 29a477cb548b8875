/** @file One session as the page works with it: what was said, what it holds, and what its last answer looked at. */
import { RequestFailure, type AnswerOptions, type Client } from "../api/client.js";
import type { Attention, Message, SessionMemory, SessionView } from "../api/types.js";
import { Observable } from "./observable.js";
import type { Transcripts, Turn } from "./transcripts.js";

/** What is known of the attention of the last answer. */
export type AttentionState =
  { status: "none"; why: string } | { status: "loading" } | { status: "ready"; attention: Attention };

const NOT_HERE = "What was answered before is not stored in this browser, so where it looked is not known.";
const NO_ANSWER = "No answer yet. The next one will show here which slots it looks at.";

function describe(error: unknown): { message: string; nextStep?: string | undefined } {
  if (error instanceof RequestFailure) return { message: error.message, nextStep: error.nextStep };
  return { message: error instanceof Error ? error.message : String(error) };
}

/** A session at work. */
export class Conversation extends Observable {
  readonly #client: Client;
  readonly #transcripts: Transcripts;
  session: SessionView;
  turns: Turn[];
  held: SessionMemory | undefined;
  attention: AttentionState = { status: "none", why: NO_ANSWER };
  /** Why the memory could not be read. */
  failure: string | undefined;
  #abort: AbortController | undefined;
  /** How often the attention was asked for; only the latest answer counts. */
  #looks = 0;

  constructor(client: Client, transcripts: Transcripts, session: SessionView) {
    super();
    this.#client = client;
    this.#transcripts = transcripts;
    this.session = session;
    this.turns = transcripts.read(session.id).filter(({ step }) => step <= session.step);
  }

  get id(): string {
    return this.session.id;
  }

  get busy(): boolean {
    return this.#abort !== undefined;
  }

  /** Steps that the session can go back to. */
  get kept(): ReadonlySet<number> {
    return new Set([0, ...this.session.checkpoints.map(({ step }) => step)]);
  }

  /** The texts of a step, if this browser knows them. */
  textOf(step: number): string | undefined {
    const turn = this.turns.find((each) => each.from < step && step <= each.step && each.status === "done");
    if (turn === undefined) return undefined;
    return turn.kind === "context" ? turn.text : `${turn.text} → ${turn.answer}`;
  }

  /** Reads what the session holds, and what its last answer looked at. */
  async refresh(): Promise<void> {
    try {
      this.session = await this.#client.session(this.id);
      this.held = await this.#client.memory(this.id);
      this.failure = undefined;
    } catch (error) {
      this.failure = describe(error).message;
    }
    this.changed();
    await this.#look();
  }

  /** Asks, and shows the answer as it comes. */
  async send(text: string, options: AnswerOptions): Promise<void> {
    const turn = this.#begin({ kind: "answer", role: "user", text });
    this.attention = { status: "none", why: "The answer is being written." };
    await this.#work(turn, async (signal) => {
      const end = await this.#client.answer(this.id, text, options, {
        signal,
        onText: (piece) => {
          turn.answer += piece;
          this.changed();
        },
      });
      Object.assign(turn, { usage: end.memory, step: end.memory.steps, reason: end.reason });
      turn.tokensPerSecond = end.tokensPerSecond;
    });
  }

  /** Takes messages in without answering; a step each. */
  async remember(messages: readonly Message[]): Promise<void> {
    for (const message of messages) {
      const role = message.role === "assistant" ? "assistant" : "user";
      const turn = this.#begin({ kind: "context", role, text: message.content });
      await this.#work(turn, async (signal) => {
        const session = await this.#client.append(this.id, [message], signal);
        this.session = session;
        Object.assign(turn, { usage: session.memory, step: session.step });
      });
      if (turn.status !== "done") return;
    }
  }

  /** Gives up the answer in progress; the session stays as it was before. */
  stop(): void {
    this.#abort?.abort();
  }

  /** The step after a turn; one that failed was none. */
  stepAfter(turn: number): number {
    return this.turns[turn]?.step ?? 0;
  }

  /** Goes back to how things were after a turn, or, with -1, at the beginning. */
  async rewind(turn: number): Promise<void> {
    this.session = await this.#client.rewind(this.id, this.stepAfter(turn));
    this.turns = this.turns.slice(0, turn + 1);
    this.#transcripts.write(this.id, this.turns);
    await this.refresh();
  }

  /** A session of its own that goes on from after a step. */
  async fork(step: number): Promise<SessionView> {
    const fork = await this.#client.fork(this.id, step);
    this.#transcripts.write(
      fork.id,
      this.turns.filter((turn) => turn.step <= step),
    );
    return fork;
  }

  async delete(): Promise<void> {
    this.stop();
    await this.#client.delete(this.id);
    this.#transcripts.forget(this.id);
  }

  #begin(turn: Pick<Turn, "kind" | "role" | "text">): Turn {
    const from = this.session.step;
    const begun: Turn = { ...turn, answer: "", status: "running", from, step: from };
    this.turns = [...this.turns, begun];
    return begun;
  }

  async #work(turn: Turn, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.changed();
    try {
      await work(signal);
      turn.status = "done";
      this.#transcripts.write(this.id, this.turns);
    } catch (error) {
      turn.status = signal.aborted ? "stopped" : "failed";
      if (!signal.aborted) turn.error = describe(error);
    }
    this.#abort = undefined;
    this.changed();
    await this.refresh();
  }

  async #look(): Promise<void> {
    const last = this.turns.findLast(({ kind, status }) => kind === "answer" && status === "done");
    const none = (why: string): void => {
      this.attention = { status: "none", why };
      this.changed();
    };
    if (last === undefined && this.turns.length === 0 && this.session.step > 0) return none(NOT_HERE);
    if (last === undefined || last.answer === "") return none(NO_ANSWER);
    if (last.from === 0) return none("The first answer had an empty memory to look at. The next one will show here.");
    if (!this.kept.has(last.from)) return none("The state that the last answer looked at is not kept.");
    const look = ++this.#looks;
    this.attention = { status: "loading" };
    this.changed();
    try {
      const attention = await this.#client.attention(this.id, {
        messages: [{ role: "user", content: last.text }],
        answer: last.answer,
        step: last.from,
      });
      // Another turn may have begun meanwhile, which will look for itself.
      if (look !== this.#looks || this.busy) return;
      this.attention = { status: "ready", attention };
      this.changed();
    } catch (error) {
      if (look === this.#looks) none(`The attention could not be read: ${describe(error).message}`);
    }
  }
}
