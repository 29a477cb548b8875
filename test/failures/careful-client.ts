/** @file A client that appends to a session of its own while things break, and knows what it was promised. */
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { decodeContainer } from "#precis/codec/container.js";
import type { LanguageModel, Memory } from "#precis/index.js";

/** An answer that was not a success. */
export interface Refusal {
  status: number;
  code: string;
  retryAfter: string | null;
}

/** How a client's session remembers. */
interface Setup {
  method: string;
  options?: Readonly<Record<string, unknown>>;
}

const STREAMING: Setup = { method: "streaming", options: { window: 48 } };

/**
 * Takes turns with a session, each of which follows from its number alone, one after the other. After an answer that is no
 * success it asks the server where the session stands, as a client must that wants each turn once.
 */
export class CarefulClient {
  readonly id: string;
  /** Turns that were acknowledged; the next one has this number. */
  acknowledged = 0;
  /** Turns that were acknowledged in all rounds, not counting those that were found after a failure. */
  successes = 0;
  readonly refusals: Refusal[] = [];
  readonly #memory: Memory;
  readonly #turns: number;
  #told = 0;

  private constructor(id: string, memory: Memory, turns: number) {
    this.id = id;
    this.#memory = memory;
    this.#turns = turns;
  }

  /**
   * @param model the one that the server has, for comparing
   * @param turns after so many it takes no more
   */
  static async of(model: LanguageModel, id: string, setup = STREAMING, turns = Infinity): Promise<CarefulClient> {
    return new CarefulClient(id, await model.createMemory(setup), turns);
  }

  /** Makes the session, if it was not made before. */
  async create(url: string): Promise<void> {
    const { method, options } = this.#memory;
    const response = await post(`${url}/v1/sessions`, { id: this.id, method, options });
    await response.arrayBuffer();
    expect([201, 409]).toContain(response.status);
  }

  /** Takes turns until `signal` fires or, if `untilCut`, the connection breaks. */
  async work(url: string, { signal, untilCut = false }: { signal: AbortSignal; untilCut?: boolean }): Promise<void> {
    while (!signal.aborted && this.acknowledged < this.#turns) {
      try {
        await this.#turn(url, untilCut);
      } catch (error) {
        // fetch throws TypeErrors for connections that break.
        if (!(error instanceof TypeError)) throw error;
        if (untilCut) return;
        await sleep(20);
      }
    }
  }

  /** Expects the session to be whole and to have every acknowledged turn, and at most the one that was under way. */
  async verify(url: string): Promise<void> {
    const step = await this.#standing(url);
    expect(step, `acknowledged turns of ${this.id} are there`).toBeGreaterThanOrEqual(this.acknowledged);
    expect(step, `turns of ${this.id} are there once`).toBeLessThanOrEqual(this.acknowledged + 1);
    this.acknowledged = step;
    if (step === 0) return;
    while (this.#told < step) await this.#tell(this.#told++);
    const response = await fetch(`${url}/v1/sessions/${this.id}/snapshot`);
    expect(response.status).toBe(200);
    const kept = decodeContainer(new Uint8Array(await response.arrayBuffer()));
    const wanted = decodeContainer(await this.#memory.snapshot({ precision: "fp32" }));
    // Its chain is a digest of every token, so turns cannot be missing, twice or out of order.
    expect({ ...kept.header, sections: [] }, `the memory of ${this.id} is what its ${step} turns make`).toEqual({
      ...wanted.header,
      sections: [],
    });
    for (const [name, rows] of wanted.sections) expect(distance(kept.sections.get(name)!, rows)).toBeLessThan(1e-4);
  }

  async #turn(url: string, untilCut: boolean): Promise<void> {
    const number = this.acknowledged;
    const response =
      number % 2 === 0
        ? await post(`${url}/v1/sessions/${this.id}/append`, { text: this.#text(number) })
        : await post(`${url}/v1/chat/completions`, {
            session: this.id,
            messages: [{ role: "user", content: this.#text(number) }],
            max_tokens: 3,
            ignore_eos: true,
            stream: number % 4 === 3,
          });
    const text = await response.text();
    const failed = /"code":"([a-z_]+)"/.exec(text)?.[1];
    if (response.ok && failed === undefined && (number % 4 !== 3 || text.includes("[DONE]"))) {
      this.acknowledged++;
      this.successes++;
      return;
    }
    if (failed === undefined) throw new TypeError("the stream was cut");
    this.refusals.push({ status: response.status, code: failed, retryAfter: response.headers.get("retry-after") });
    // Sent again right away, a turn that was kept after all would be kept twice.
    const step = await this.#eventualStanding(url, untilCut);
    if (step === number + 1) this.acknowledged = step;
  }

  async #eventualStanding(url: string, untilCut: boolean): Promise<number> {
    for (let attempt = 0; ; attempt++) {
      await sleep(20);
      try {
        return await this.#standing(url);
      } catch (error) {
        if (attempt === 1000 || (untilCut && error instanceof TypeError)) throw error;
      }
    }
  }

  async #standing(url: string): Promise<number> {
    const response = await fetch(`${url}/v1/sessions/${this.id}`);
    const { step, error } = (await response.json()) as { step?: number; error?: { code: string } };
    // A session whose making was never acknowledged need not be there.
    if (response.status === 404 && this.acknowledged === 0) return 0;
    if (step === undefined) throw new Error(`Session ${this.id}: ${response.status} ${error?.code}`);
    return step;
  }

  async #tell(number: number): Promise<void> {
    const text = this.#text(number);
    if (number % 2 === 0) await this.#memory.append(text);
    else await this.#memory.answer([{ role: "user", content: text }], { maxTokens: 3, ignoreEos: true });
  }

  #text(number: number): string {
    return `${this.id} ${number}`;
  }
}

/** The largest difference of two sections of rows; turns that were computed side by side round otherwise. */
function distance(some: Uint8Array, others: Uint8Array): number {
  const floats = (bytes: Uint8Array): Float32Array => new Float32Array(Uint8Array.from(bytes).buffer);
  const wanted = floats(others);
  expect(some.byteLength).toBe(others.byteLength);
  return floats(some).reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
}

function post(url: string, body: object): Promise<Response> {
  return fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}
