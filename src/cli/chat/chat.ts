/** @file A terminal chat: forks of a conversation, each with its memory and its text. */
import { readFile } from "node:fs/promises";
import { PrecisError } from "../../errors.js";
import type { Memory } from "../../memory/memory.js";
import type { MemoryStats } from "../../memory/memory-stats.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { GenerateOptions } from "../../runtime/protocol.js";
import type { ChatMessage } from "../../text/chat-template.js";
import { isSystemError, writeFileAtomic } from "../../weights/files.js";
import { chooseMemory } from "../model-options.js";

/** One line of conversation: what the model holds of it, and its text. */
interface Fork {
  memory: Memory;
  /** What was said, for reading it into another kind of memory. */
  messages: ChatMessage[];
  /** Whether something was said before `messages`, of which a loaded snapshot holds no text. */
  textIncomplete: boolean;
}

/** How a turn went. */
export interface TurnResult {
  stats: MemoryStats;
  /** Absent for answers too short to tell. */
  tokensPerSecond?: number;
  stopped: boolean;
}

/** What reading the conversation into another memory took. */
export interface ReplayCost {
  tokens: number;
  milliseconds: number;
  textIncomplete: boolean;
}

/** State of the chat, and everything that can be done with it. Prints nothing. */
export class Chat {
  readonly model: LanguageModel;
  readonly #generation: GenerateOptions;
  readonly #adapter: string | undefined;
  readonly #forks: Fork[];
  #current = 0;
  #answering = false;
  #stopRequested = false;

  /** @param adapter the one that methods use which need one; default: what is installed with the model */
  constructor(model: LanguageModel, memory: Memory, generation: GenerateOptions, adapter?: string) {
    this.model = model;
    this.#generation = generation;
    this.#adapter = adapter;
    this.#forks = [{ memory, messages: [], textIncomplete: false }];
  }

  /** The memory of the present fork. */
  get memory(): Memory {
    return this.#fork.memory;
  }

  /** Number of the present fork, from 1 on, and of how many. */
  get place(): { fork: number; forks: number } {
    return { fork: this.#current + 1, forks: this.#forks.length };
  }

  /** Reads in a message without answering it. */
  async tell(message: ChatMessage, signal: AbortSignal): Promise<void> {
    await this.memory.append([message], { signal });
    this.#fork.messages.push(message);
  }

  /** Answers `text` piece by piece. */
  async ask(text: string, onText: (text: string) => void): Promise<TurnResult> {
    const { memory, messages } = this.#fork;
    const question: ChatMessage = { role: "user", content: text };
    let answer = "";
    let tokens = 0;
    let firstAt = 0;
    this.#answering = true;
    this.#stopRequested = false;
    try {
      for await (const event of memory.generate([question], this.#generation)) {
        if (event.type === "text-delta") {
          firstAt ||= performance.now();
          if (event.tokenId !== undefined) tokens += 1;
          answer += event.text;
          onText(event.text);
        }
        // Leaving the loop keeps what was said so far.
        if (this.#stopRequested) break;
      }
    } finally {
      this.#answering = false;
    }
    const elapsed = performance.now() - firstAt;
    messages.push(question, { role: "assistant", content: answer });
    const tokensPerSecond = tokens > 1 ? (1000 * (tokens - 1)) / elapsed : undefined;
    return { stats: await memory.stats(), tokensPerSecond, stopped: this.#stopRequested };
  }

  /** Ends the answer in progress. @returns whether there was one */
  stop(): boolean {
    this.#stopRequested = this.#answering;
    return this.#answering;
  }

  /** Writes the memory to a file, whole or not at all. @returns its size in bytes */
  async save(file: string): Promise<number> {
    const bytes = await this.memory.snapshot();
    await writeFileAtomic(file, bytes);
    return bytes.byteLength;
  }

  /** Puts a saved memory in the place of the present one, which stays if that fails. */
  async load(file: string): Promise<void> {
    const bytes = await readFile(file).catch((error: unknown) => {
      if (isSystemError(error, "ENOENT", "ENOTDIR")) {
        throw new PrecisError("FILE_NOT_FOUND", `There is no file ${file}.`, {
          nextStep: "Write one with /save FILE.",
        });
      }
      throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`);
    });
    await this.memory.restore(new Uint8Array(bytes));
    Object.assign(this.#fork, { messages: [], textIncomplete: true });
  }

  /** Copies the present fork and goes on with the copy. */
  async fork(): Promise<void> {
    const { memory, messages, textIncomplete } = this.#fork;
    this.#forks.push({ memory: await memory.fork(), messages: [...messages], textIncomplete });
    this.#current = this.#forks.length - 1;
  }

  /** Goes on with fork `number`. @throws OPTION_INVALID if there is none */
  switchTo(number: number): void {
    if (!Number.isInteger(number) || this.#forks[number - 1] === undefined) {
      throw new PrecisError("OPTION_INVALID", `There is no fork ${number}.`, {
        value: number,
        nextStep: `Choose from 1 to ${this.#forks.length}, or write /fork alone to make one.`,
      });
    }
    this.#current = number - 1;
  }

  /** Reads the conversation so far into a new memory of another method. */
  async changeMethod(method: string, options: Record<string, string>): Promise<ReplayCost> {
    const { memory, messages, textIncomplete } = this.#fork;
    const { info } = this.model;
    const choice = await chooseMemory(info.directory, { adapter: this.#adapter, method, set: options });
    const replacement = await this.model.createMemory(choice);
    const startedAt = performance.now();
    try {
      const { tokensSeen } = messages.length > 0 ? await replacement.append(messages) : { tokensSeen: 0 };
      this.#fork.memory = replacement;
      await memory.dispose();
      return { tokens: tokensSeen, milliseconds: performance.now() - startedAt, textIncomplete };
    } catch (error) {
      await replacement.dispose();
      throw error;
    }
  }

  get #fork(): Fork {
    return this.#forks[this.#current] as Fork;
  }
}
