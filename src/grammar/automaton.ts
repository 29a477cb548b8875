/** @file Reads text byte by byte against a grammar: all ways to read it at once, worked out once and remembered. */
import { PrecisError } from "../errors.js";
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

/** Ways to read a text at once, as only schemas have whose alternatives begin alike over and over. */
const MAX_THREADS = 4096;

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
    return this.#collect((add) => this.#follow(this.#program.start, add));
  }

  #read({ threads }: State, byte: number): State | null {
    const { instructions } = this.#program;
    const found = this.#collect((add) => {
      for (const { place, stack } of threads) {
        const instruction = instructions[place];
        if (instruction?.op === "byte" && instruction.byte === byte) this.#follow(instruction.next, add, stack);
        if (instruction?.op === "switch") this.#follow(instruction.table[byte] ?? -1, add, stack);
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
      if (threads.size > MAX_THREADS) throw tooAmbiguous();
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
  #follow(from: number, add: (thread: Thread | undefined) => void, below?: Frame): void {
    const { instructions, rules, productive } = this.#program;
    const due: (Omit<Frame, "id" | "parent"> & { stack: Frame | undefined })[] = [
      { place: from, count: 0, stack: below },
    ];
    for (let step = due.pop(); step !== undefined; step = due.pop()) {
      const { place, count, stack } = step;
      const instruction = productive[place] === 1 ? instructions[place] : undefined;
      switch (instruction?.op) {
        case "byte":
        case "switch":
          add({ place, stack });
          break;
        case "return":
          if (stack === undefined) add(undefined);
          else due.push({ place: stack.place, count: stack.count, stack: stack.parent });
          break;
        case "split":
          for (const next of instruction.nexts) due.push({ place: next, count: 0, stack });
          break;
        case "call": {
          const frame = this.#frame(instruction.next, 0, stack);
          due.push({ place: rules[instruction.rule] ?? -1, count: 0, stack: frame });
          break;
        }
        case "loop": {
          const { rule, min, max, next } = instruction;
          if (count >= min) due.push({ place: next, count: 0, stack });
          const start = rules[rule] ?? -1;
          if (count >= max || productive[start] !== 1) break;
          // Without a limit it makes no difference how often beyond the least.
          const through = max === Infinity ? Math.min(count + 1, min) : count + 1;
          due.push({ place: start, count: 0, stack: this.#frame(place, through, stack) });
        }
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

function tooAmbiguous(): PrecisError {
  return new PrecisError("SCHEMA_UNSUPPORTED", "A text can be read in too many ways under the schema.", {
    nextStep: "Let the alternatives of each anyOf differ early, such as by a constant in their first property.",
  });
}
