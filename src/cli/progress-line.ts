/** @file One line on a terminal's stderr that is drawn over; nothing where stderr is not a terminal. */

/** Shows passing texts, at most ten a second, and leaves no trace. */
export class ProgressLine {
  #nextAt = 0;
  #shown = false;

  show(text: string): void {
    const now = performance.now();
    if (process.stderr.isTTY !== true || now < this.#nextAt) return;
    this.#nextAt = now + 100;
    this.#shown = true;
    // A line longer than the terminal would wrap, and drawing over it would leave its first half behind.
    process.stderr.write(`\r\u001B[2K${text.slice(0, (process.stderr.columns || 80) - 1)}`);
  }

  /** Removes the line, so that what is printed next starts on a clean one. */
  end(): void {
    if (this.#shown) process.stderr.write("\r\u001B[2K");
    this.#shown = false;
  }
}
