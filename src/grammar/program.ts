/** @file Grammars as small programs: bytes to read, choices, counted loops, and rules that call each other. */
import { PrecisError } from "../errors.js";

/** One step of a program; `next` and the like are places in it. */
export type Instruction =
  /** Reads this byte. */
  | { op: "byte"; byte: number; next: number }
  /** Reads a byte and goes on where the table says, -1 for bytes that do not fit. */
  | { op: "switch"; table: Int32Array }
  /** Goes on at any of several places. */
  | { op: "split"; nexts: readonly number[] }
  /** Reads what a rule says. */
  | { op: "call"; rule: number; next: number }
  /** Reads what a rule says `min` to `max` times. The rule must read at least one byte. */
  | { op: "loop"; rule: number; min: number; max: number; next: number }
  /** The end of a rule, or of the text. */
  | { op: "return" };

/** A grammar: texts that it accepts are those that lead from `start` to the end. */
export interface Program {
  instructions: readonly Instruction[];
  /** Where each rule begins. */
  rules: readonly number[];
  start: number;
  /** 1 for the places from which the end can be reached. */
  productive: Uint8Array;
}

/** What a grammar may cost, an instruction at a time, so that hostile schemas do not fill the engine's memory. */
const MAX_COST = 200_000;
/** What a table costs beside the other instructions. */
const TABLE_COST = 16;

const encoder = new TextEncoder();

/** Builds a program from its end to its beginning: each method takes the place to go on at and returns the place before. */
export class ProgramBuilder {
  readonly #instructions: Instruction[] = [{ op: "return" }];
  readonly #rules: number[] = [];
  #cost = 0;

  /** The place at which a rule ends. */
  readonly end = 0;

  /** @throws SCHEMA_UNSUPPORTED for a grammar that is too large */
  add(instruction: Instruction): number {
    this.#cost += instruction.op === "switch" ? TABLE_COST : 1;
    if (this.#cost > MAX_COST) {
      throw new PrecisError("SCHEMA_UNSUPPORTED", "The schema is too large.", {
        nextStep: "Leave properties or enum values out, or use $ref for what repeats.",
      });
    }
    return this.#instructions.push(instruction) - 1;
  }

  /** A text, exactly. */
  text(text: string, next: number): number {
    return this.#sequence(encoder.encode(text), next);
  }

  /** A byte of some ranges, each with where it leads. */
  bytes(...ranges: readonly [from: number, to: number, next: number][]): number {
    const table = new Int32Array(256).fill(-1);
    for (const [from, to, next] of ranges) table.fill(next, from, to + 1);
    return this.add({ op: "switch", table });
  }

  /** Any of several texts, which share their beginnings. */
  oneOf(texts: readonly string[], next: number): number {
    return this.#trie(
      [...new Set(texts)].map((text) => encoder.encode(text)),
      0,
      next,
    );
  }

  /** Any of several places. */
  choice(nexts: readonly number[]): number {
    const [only] = nexts;
    return nexts.length === 1 && only !== undefined ? only : this.add({ op: "split", nexts });
  }

  /** A text, or nothing. */
  optional(text: string, next: number): number {
    return this.choice([this.text(text, next), next]);
  }

  call(rule: number, next: number): number {
    return this.add({ op: "call", rule, next });
  }

  loop(rule: number, { min, max }: { min: number; max: number }, next: number): number {
    return this.add({ op: "loop", rule, min, max, next });
  }

  /** A rule that is yet to be defined, so that rules may call themselves. */
  declare(): number {
    return this.#rules.push(-1) - 1;
  }

  /** Says where a declared rule begins. */
  define(rule: number, start: number): void {
    this.#rules[rule] = start;
  }

  /** A rule that is already built. */
  rule(start: number): number {
    return this.#rules.push(start) - 1;
  }

  /** @throws SCHEMA_UNSUPPORTED where no text at all fits */
  build(start: number): Program {
    const program = { instructions: this.#instructions, rules: this.#rules, start };
    refuseEndless(program);
    const productive = findProductive(program);
    if (productive[start] === 1) return { ...program, productive };
    throw new PrecisError("SCHEMA_UNSUPPORTED", "Nothing fits the schema.", {
      nextStep: "Look for bounds that exclude each other, or for a $ref that never ends.",
    });
  }

  /** What several texts share, and then the ways in which they go on. */
  #trie(texts: readonly Uint8Array[], depth: number, next: number): number {
    const [first = NOTHING] = texts;
    const shared = texts.reduce((length, text) => sharedLength(first, text, depth, length), first.length);
    return this.#sequence(first.subarray(depth, shared), this.#branches(texts, shared, next));
  }

  #branches(texts: readonly Uint8Array[], depth: number, next: number): number {
    const byFirst = new Map<number, Uint8Array[]>();
    let ends = false;
    for (const text of texts) {
      const byte = text[depth];
      if (byte === undefined) ends = true;
      else {
        const others = byFirst.get(byte) ?? [];
        others.push(text);
        byFirst.set(byte, others);
      }
    }
    if (byFirst.size === 0) return next;
    const place = this.bytes(
      ...[...byFirst].map(([byte, rest]): [number, number, number] => [byte, byte, this.#trie(rest, depth + 1, next)]),
    );
    return ends ? this.choice([place, next]) : place;
  }

  #sequence(bytes: Uint8Array, next: number): number {
    return bytes.reduceRight((after, byte) => this.add({ op: "byte", byte, next: after }), next);
  }
}

const NOTHING = new Uint8Array(0);

/** Up to where two texts are alike that are alike up to `from`, at most `to`. */
function sharedLength(a: Uint8Array, b: Uint8Array, from: number, to: number): number {
  let length = from;
  while (length < to && length < b.length && a[length] === b[length]) length++;
  return length;
}

/** @throws SCHEMA_UNSUPPORTED where a rule comes back to itself before it has read anything */
function refuseEndless({ instructions, rules }: Omit<Program, "productive">): void {
  const seen = new Map<number, "open" | "done">();
  const visit = (rule: number): void => {
    if (seen.get(rule) === "done") return;
    if (seen.get(rule) === "open") {
      throw new PrecisError("SCHEMA_UNSUPPORTED", "A $ref of the schema leads back to itself and says nothing else.", {
        nextStep: "Put an object or an array between.",
      });
    }
    seen.set(rule, "open");
    const places = [rules[rule]];
    for (let place = places.pop(); place !== undefined; place = places.pop()) {
      const instruction = instructions[place];
      if (instruction?.op === "split") places.push(...instruction.nexts);
      if (instruction?.op === "call" || instruction?.op === "loop") visit(instruction.rule);
      if (instruction?.op === "loop" && instruction.min === 0) places.push(instruction.next);
    }
    seen.set(rule, "done");
  };
  for (const rule of rules.keys()) visit(rule);
}

/** Marks the places from which the end can be reached, so that no reader ever gets stuck. */
function findProductive({ instructions, rules }: Omit<Program, "productive">): Uint8Array {
  const productive = new Uint8Array(instructions.length);
  const reaches = (place: number | undefined): boolean => place !== undefined && productive[place] === 1;
  const ends = (instruction: Instruction): boolean => {
    switch (instruction.op) {
      case "return":
        return true;
      case "byte":
        return reaches(instruction.next);
      case "switch":
        return instruction.table.some((next) => next >= 0 && reaches(next));
      case "split":
        return instruction.nexts.some(reaches);
      case "call":
        return reaches(rules[instruction.rule]) && reaches(instruction.next);
      case "loop":
        return reaches(instruction.next) && (instruction.min === 0 || reaches(rules[instruction.rule]));
    }
  };
  const users = usersOf({ instructions, rules });
  const due = [...instructions.keys()].filter((place) => instructions[place]?.op === "return");
  for (let place = due.pop(); place !== undefined; place = due.pop()) {
    if (productive[place] === 1) continue;
    productive[place] = 1;
    for (const user of users[place] ?? []) {
      if (productive[user] === 0 && ends(instructions[user] as Instruction)) due.push(user);
    }
  }
  return productive;
}

/** For each place those that lead to it. */
function usersOf({ instructions, rules }: Pick<Program, "instructions" | "rules">): (number[] | undefined)[] {
  const users: (number[] | undefined)[] = Array.from({ length: instructions.length });
  const note = (user: number, place: number | undefined): void => {
    if (place !== undefined && place >= 0) (users[place] ??= []).push(user);
  };
  for (const [place, instruction] of instructions.entries()) {
    if (instruction.op === "switch") new Set(instruction.table).forEach((next) => note(place, next));
    if (instruction.op === "split") instruction.nexts.forEach((next) => note(place, next));
    if ("rule" in instruction) note(place, rules[instruction.rule]);
    if ("next" in instruction) note(place, instruction.next);
  }
  return users;
}
