/** @file Reads text byte by byte against a grammar: all ways to read it at once, worked out once and remembered. */
import type { Program } from "./program.js";

/** What is to be done after a rule. Frames of equal content are one object. */
interface Frame {
  id: number;
  place: number;
  /** How often the loop at `place` has been through. */
  count: number;
  parent: Frame | undefined;
}

/** One way to read the text so far: a place that reads a byte, and what comes after its rule. */
interface Thread {
  place: number;
  stack: Frame | undefined;
}

/** All that may follow a text. States that allow the same are one object, as long as the automaton remembers them. */
export interface State {
  readonly threads: readonly Thread[];
  /** Whether the text is complete. */
  readonly accepting: boolean;
  /** The states after each byte, as far as they are known; null where none fits. */
  readonly next: (State | null | undefined)[];
}

/** States, and separately frames, that are remembered; beyond it all are forgotten and worked out again. */
const MAX_REMEMBERED = 5000;

/** The reader of one grammar. */
export class Automaton {
  readonly #program: Program;
  readonly #states = new Map<string, State>();
  readonly #frames = new Map<string, Frame>();
  #nextFrame = 1;
  #start: State;

  constructor(program: Program) {
    this.#program = program;
    this.#start = this.#startState();
  }

  /** Before any text. */
  get start(): State {
    return this.#start;
  }

  /** After one more byte; null where it does not fit. */
  step(state: State, byte: number): State | null {
    const known = state.next[byte];
    if (known !== undefined) return known;
    const found = this.#read(state, byte);
    state.next[byte] = found;
    return found;
  }

  /** After several bytes; null where they do not fit. */
  read(state: State, bytes: Iterable<number>): State | null {
    let after: State | null = state;
    for (const byte of bytes) {
      if (after === null) return null;
      after = this.step(after, byte);
    }
    return after;
  }

  /**
   * A text that states share which allow the same tokens, given that no token has more than `longest` bytes. In a string
   * of limited length, only the last `longest` places make a difference.
   */
  maskKey({ threads, accepting }: State, longest: number): string {
    const { instructions } = this.#program;
    const describe = ({ place, stack }: Thread): string => {
      const loop = stack === undefined ? undefined : instructions[stack.place];
      if (stack === undefined || loop?.op !== "loop") return `${place}:${stack?.id ?? 0}`;
      const missing = Math.min(Math.max(0, loop.min - stack.count), longest);
      const left = Math.min(loop.max - stack.count, longest);
      return `${place}:${stack.place},${missing},${left}:${stack.parent?.id ?? 0}`;
    };
    return `${threads.map(describe).join(" ")}${accepting ? "!" : ""}`;
  }

  #startState(): State {
    return this.#collect((add) => this.#follow(this.#program.start, 0, undefined, add));
  }

  #read({ threads }: State, byte: number): State | null {
    const { instructions } = this.#program;
    const found = this.#collect((add) => {
      for (const { place, stack } of threads) {
        const instruction = instructions[place];
        if (instruction?.op === "byte" && instruction.byte === byte) this.#follow(instruction.next, 0, stack, add);
        if (instruction?.op === "switch") this.#follow(instruction.table[byte] ?? -1, 0, stack, add);
      }
    });
    return found.threads.length === 0 && !found.accepting ? null : found;
  }

  /** The state of all threads that `fill` adds; an undefined one is the end of the text. */
  #collect(fill: (add: (thread: Thread | undefined) => void) => void): State {
    const threads = new Map<string, Thread>();
    let accepting = false;
    fill((thread) => {
      if (thread === undefined) accepting = true;
      else threads.set(`${thread.place}.${thread.stack?.id ?? 0}`, thread);
    });
    const key = `${[...threads.keys()].sort().join(" ")}${accepting ? "!" : ""}`;
    const known = this.#states.get(key);
    if (known !== undefined) return known;
    if (this.#states.size >= MAX_REMEMBERED || this.#frames.size >= MAX_REMEMBERED) this.#forget();
    const state: State = { threads: [...threads.values()], accepting, next: [] };
    this.#states.set(key, state);
    return state;
  }

  /** Goes on to the places that read a byte, and to the end of the text. */
  #follow(place: number, count: number, stack: Frame | undefined, add: (thread: Thread | undefined) => void): void {
    const { instructions, rules, productive } = this.#program;
    const instruction = instructions[place];
    if (instruction === undefined || productive[place] !== 1) return;
    switch (instruction.op) {
      case "byte":
      case "switch":
        return add({ place, stack });
      case "return":
        return stack === undefined ? add(undefined) : this.#follow(stack.place, stack.count, stack.parent, add);
      case "split":
        for (const next of instruction.nexts) this.#follow(next, 0, stack, add);
        return;
      case "call":
        return this.#follow(rules[instruction.rule] ?? -1, 0, this.#frame(instruction.next, 0, stack), add);
      case "loop": {
        const { rule, min, max, next } = instruction;
        if (count >= min) this.#follow(next, 0, stack, add);
        const start = rules[rule] ?? -1;
        if (count >= max || productive[start] !== 1) return;
        // Without a limit it makes no difference how often beyond the least.
        const through = max === Infinity ? Math.min(count + 1, min) : count + 1;
        return this.#follow(start, 0, this.#frame(place, through, stack), add);
      }
    }
  }

  #frame(place: number, count: number, parent: Frame | undefined): Frame {
    const key = `${place}.${count}.${parent?.id ?? 0}`;
    let frame = this.#frames.get(key);
    if (frame === undefined) {
      frame = { id: this.#nextFrame++, place, count, parent };
      this.#frames.set(key, frame);
    }
    return frame;
  }

  /** States that texts in progress hold stay good; their frames only have no equals any more. */
  #forget(): void {
    this.#states.clear();
    this.#frames.clear();
    this.#start = { ...this.#start, next: [] };
  }
}
