/** @file A memory as the worker keeps it: session, conversation and token chain, changed all together or not at all. */
import { EMPTY_CHAIN, extendChain } from "../memory/token-chain.js";
import type { MemorySession } from "../memory/session.js";
import type { Conversation } from "./conversation.js";
import type { AdapterInfo, MemoryInfo } from "./protocol.js";

/** One memory. Operations on it wait for each other. */
export class MemoryEntry {
  session: MemorySession;
  conversation: Conversation;
  tokenChain: string;
  readonly adapterInfo: AdapterInfo | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    session: MemorySession,
    conversation: Conversation,
    adapterInfo: AdapterInfo | undefined,
    tokenChain: string = EMPTY_CHAIN,
  ) {
    this.session = session;
    this.conversation = conversation;
    this.adapterInfo = adapterInfo;
    this.tokenChain = tokenChain;
  }

  /** Runs `work` after everything asked for earlier. */
  exclusive<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /**
   * Runs `work` on a session that takes the place of the present one only if all goes well. A plain cache is rolled back
   * by cutting it off, so that it need not be copied; other methods hold little, and work on a copy.
   * @param keep whether the changes stay; if not, they are undone as after a failure
   */
  async transact<Result>(
    keep: boolean,
    work: (session: MemorySession) => Promise<{ ids: readonly number[]; result: Result }>,
  ): Promise<Result> {
    const { session } = this;
    const undo = session.behavior.appendOnly === true ? session.checkpoint() : undefined;
    const target = undo === undefined ? session.fork() : session;
    try {
      const { ids, result } = await work(target);
      if (keep) {
        this.session = target;
        this.tokenChain = extendChain(this.tokenChain, ids);
      } else undo?.();
      return result;
    } catch (error) {
      undo?.();
      throw error;
    }
  }

  /** Takes over the contents of another memory. */
  become({ session, conversation, tokenChain }: MemoryEntry): void {
    Object.assign(this, { session, conversation, tokenChain });
  }

  /** What the main thread is told of the memory, which it knows by the number `id`. */
  info(id: number): MemoryInfo {
    const { session, adapterInfo } = this;
    return { id, method: session.method.name, options: session.options, adapter: adapterInfo, stats: session.stats() };
  }

  /** An independent copy. */
  fork(): MemoryEntry {
    return new MemoryEntry(this.session.fork(), this.conversation.fork(), this.adapterInfo, this.tokenChain);
  }
}
