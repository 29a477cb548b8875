/** @file Events from work that goes on whether or not anybody reads them. */

/** What a producer pushes, in order, for one reader. */
export class EventQueue<Item> implements AsyncIterable<Item> {
  readonly #items: Item[] = [];
  #wake: () => void = () => undefined;
  #end: { error?: unknown; failed: boolean } | undefined;

  /** Adds an event. */
  push(item: Item): void {
    this.#items.push(item);
    this.#wake();
  }

  /** Ends the events; the reader gets those there are first, and then `error` if there is one. */
  close(...failure: [] | [error: unknown]): void {
    this.#end ??= { error: failure[0], failed: failure.length > 0 };
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void, void> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) yield item;
      else if (this.#end?.failed === true) throw this.#end.error;
      else if (this.#end !== undefined) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
