/**
 * @file The parts of JSON as grammar rules. What is written is bounded where a model could go on for ever without saying
 * anything: at most one space after a comma or colon, at most 15 digits, exponents of at most two digits.
 */
import type { ProgramBuilder } from "./program.js";

const code = (char: string): number => char.charCodeAt(0);
const [ZERO, ONE, NINE] = [code("0"), code("1"), code("9")];

/** Digits of a whole number, such that every one is exact as a JavaScript number. */
const MAX_DIGITS = 15;

/** How long something may be. */
export interface Bounds {
  min: number;
  max: number;
}

/** A range of numbers. */
export interface NumberBounds extends Bounds {
  /** Whether a number must be above `min`, and below `max`, rather than at it. */
  above: boolean;
  below: boolean;
}

/** Digits behind the point of a number with bounds. */
const BOUNDED_FRACTION = 6;

const ANY_LENGTH: Bounds = { min: 0, max: Infinity };

interface OpenBound {
  at: number;
  /** Whether the bound itself is left out. */
  open: boolean;
}

/** Rules that the values of one grammar share; each is built when it is first needed. */
export class JsonRules {
  readonly #builder: ProgramBuilder;
  readonly #integers = new Map<string, number>();
  /** Places before so many digits at the end of a rule, by how many. */
  readonly #anyDigits: number[];
  #char: number | undefined;
  #number: number | undefined;
  #value: number | undefined;

  constructor(builder: ProgramBuilder) {
    this.#builder = builder;
    this.#anyDigits = [builder.end];
  }

  /** A string of so many code points. Surrogates cannot be escaped, as they would count twice; nor is there U+FEFF. */
  string(next: number, length: Bounds = ANY_LENGTH): number {
    const { text, loop } = this.#bound();
    this.#char ??= this.#builder.rule(this.#buildChar());
    return text('"', loop(this.#char, length, text('"', next)));
  }

  /** Any number. */
  number(next: number): number {
    this.#number ??= this.#builder.rule(this.#buildNumber());
    return this.#builder.call(this.#number, next);
  }

  /**
   * A number of a range whose bounds are whole: without an exponent, and with few enough digits that what is written
   * below a bound is below it when it is read as a float.
   */
  numberBetween(next: number, { min, max, above, below }: NumberBounds): number {
    const places: number[] = [];
    if (max > 0 || (max === 0 && !below)) {
      const low = min < 0 ? { at: 0, open: false } : { at: min, open: above };
      places.push(this.#realBetween(low, { at: max, open: below }, next));
    }
    if (min < 0) {
      const low = max > 0 ? { at: 0, open: false } : { at: -max, open: below };
      places.push(this.#builder.text("-", this.#realBetween(low, { at: -min, open: above }, next)));
    }
    return this.#builder.choice(places);
  }

  /** A whole number of a range. */
  integer(next: number, { min, max }: Bounds): number {
    const most = 10 ** MAX_DIGITS - 1;
    const [low, high] = [Math.max(min, -most), Math.min(max, most)];
    const key = `${low} ${high}`;
    let rule = this.#integers.get(key);
    if (rule === undefined) {
      rule = this.#builder.rule(this.#buildInteger(low, high));
      this.#integers.set(key, rule);
    }
    return this.#builder.call(rule, next);
  }

  /** Any value. */
  value(next: number): number {
    if (this.#value === undefined) {
      this.#value = this.#builder.declare();
      const { end } = this.#builder;
      const item = this.#builder.rule(this.#builder.call(this.#value, end));
      this.#builder.define(
        this.#value,
        this.#builder.choice([
          this.string(end),
          this.number(end),
          this.map(item, end),
          this.array(item, ANY_LENGTH, end),
          this.#builder.oneOf(["true", "false", "null"], end),
        ]),
      );
    }
    return this.#builder.call(this.#value, next);
  }

  /** A list of what a rule says. */
  array(item: number, length: Bounds, next: number): number {
    const { text } = this.#bound();
    return text("[", this.#list(this.#builder.call(item, this.#builder.end), length, text("]", next)));
  }

  /** An object with any keys, and values as a rule says. */
  map(value: number, next: number): number {
    const { text } = this.#bound();
    const entry = this.string(this.colon(this.#builder.call(value, this.#builder.end)));
    return text("{", this.#list(entry, ANY_LENGTH, text("}", next)));
  }

  colon(next: number): number {
    return this.#builder.text(":", this.#builder.optional(" ", next));
  }

  comma(next: number): number {
    return this.#builder.text(",", this.#builder.optional(" ", next));
  }

  /** Entries with commas between them. @param entry the place of one, which ends its rule */
  #list(entry: number, { min, max }: Bounds, next: number): number {
    const first = this.#builder.rule(entry);
    const other = this.#builder.rule(this.comma(this.#builder.call(first, this.#builder.end)));
    const rest = this.#builder.loop(other, { min: Math.max(0, min - 1), max: max - 1 }, next);
    const places = max === 0 ? [] : [this.#builder.call(first, rest)];
    return this.#builder.choice(min === 0 ? [...places, next] : places);
  }

  #bound(): { text: ProgramBuilder["text"]; loop: ProgramBuilder["loop"] } {
    const builder = this.#builder;
    return {
      text: (text, next) => builder.text(text, next),
      loop: (rule, length, next) => builder.loop(rule, length, next),
    };
  }

  /** One code point of a string, as UTF-8 or escaped. */
  #buildChar(): number {
    const builder = this.#builder;
    const { end } = builder;
    const hex = (next: number): number =>
      builder.bytes([ZERO, NINE, next], [code("A"), code("F"), next], [code("a"), code("f"), next]);
    const hex2 = hex(hex(end));
    const hex3 = hex(hex2);
    const unpaired = builder.bytes([ZERO, code("7"), hex2]);
    const unicode = builder.bytes(
      [ZERO, NINE, hex3],
      [code("A"), code("F"), hex3],
      [code("a"), code("f"), hex3],
      [code("D"), code("D"), unpaired],
      [code("d"), code("d"), unpaired],
    );
    const plain = [...'"\\/bfnrt'].map((char): [number, number, number] => [code(char), code(char), end]);
    const escape = builder.bytes(...plain, [code("u"), code("u"), unicode]);
    const last = builder.bytes([0x80, 0xbf, end]);
    const two = builder.bytes([0x80, 0xbf, last]);
    const beforeMark = builder.bytes([0x80, 0xbe, end]);
    return builder.bytes(
      [0x20, 0x7f, end],
      [code('"'), code('"'), -1],
      [code("\\"), code("\\"), escape],
      [0xc2, 0xdf, last],
      [0xe0, 0xe0, builder.bytes([0xa0, 0xbf, last])],
      [0xe1, 0xee, two],
      [0xed, 0xed, builder.bytes([0x80, 0x9f, last])],
      [0xef, 0xef, builder.bytes([0x80, 0xbf, last], [0xbb, 0xbb, beforeMark])],
      [0xf0, 0xf0, builder.bytes([0x90, 0xbf, two])],
      [0xf1, 0xf3, builder.bytes([0x80, 0xbf, two])],
      [0xf4, 0xf4, builder.bytes([0x80, 0x8f, two])],
    );
  }

  #buildNumber(): number {
    const builder = this.#builder;
    const { end } = builder;
    const someDigits = (most: number, next: number): number => this.#someDigits(most, next);
    const digits = someDigits(2, end);
    const power = builder.choice([
      digits,
      builder.bytes([code("+"), code("+"), digits], [code("-"), code("-"), digits]),
    ]);
    const exponent = builder.choice([builder.bytes([code("e"), code("e"), power], [code("E"), code("E"), power]), end]);
    const fraction = builder.choice([builder.text(".", someDigits(MAX_DIGITS, exponent)), exponent]);
    const more = builder.choice([someDigits(MAX_DIGITS - 1, fraction), fraction]);
    const whole = builder.bytes([ZERO, ZERO, fraction], [ONE, NINE, more]);
    return builder.choice([builder.text("-", whole), whole]);
  }

  /** A number from `low` to `high`, both whole and not negative, each with or without the bound itself. */
  #realBetween(low: OpenBound, high: OpenBound, next: number): number {
    const builder = this.#builder;
    const highest = Math.min(high.at, 10 ** MAX_DIGITS);
    const whole = (from: number, to: number, after: number): number[] =>
      from > to ? [] : [builder.call(builder.rule(this.#digits(from, to)), after)];
    const fraction = builder.text(".", this.#someDigits(BOUNDED_FRACTION, next));
    const places = whole(low.open ? low.at + 1 : low.at, highest - 1, builder.choice([fraction, next]));
    if (low.open && low.at < highest) {
      places.push(...whole(low.at, low.at, builder.text(".", this.#notAllZeros(BOUNDED_FRACTION, next))));
    }
    const isWritable = high.at === highest && (low.at < high.at || !low.open);
    if (isWritable && !high.open) places.push(...whole(high.at, high.at, next));
    return builder.choice(places);
  }

  #notAllZeros(most: number, next: number): number {
    let place = this.#builder.bytes([ONE, NINE, next]);
    for (let count = 1; count < most; count++) {
      const more = this.#builder.choice([this.#someDigits(count, next), next]);
      place = this.#builder.bytes([ZERO, ZERO, place], [ONE, NINE, more]);
    }
    return place;
  }

  /** One digit, or up to `most`. */
  #someDigits(most: number, next: number): number {
    let place = this.#builder.bytes([ZERO, NINE, next]);
    for (let count = 1; count < most; count++) {
      place = this.#builder.bytes([ZERO, NINE, this.#builder.choice([place, next])]);
    }
    return place;
  }

  #buildInteger(low: number, high: number): number {
    const places: number[] = [];
    if (high >= 0 && low <= high) places.push(this.#digits(Math.max(low, 0), high));
    if (low < 0 && low <= high) places.push(this.#builder.text("-", this.#digits(Math.max(1, -high), -low)));
    return this.#builder.choice(places);
  }

  /** The whole numbers from `low` to `high`, both not negative, without leading zeros. */
  #digits(low: number, high: number): number {
    const [shortest, longest] = [String(low).length, String(high).length];
    const places: number[] = [];
    for (let length = shortest; length <= longest; length++) {
      const from = length === shortest ? String(low) : `1${"0".repeat(length - 1)}`;
      const to = length === longest ? String(high) : "9".repeat(length);
      places.push(this.#digitsBetween(from, to));
    }
    return this.#builder.choice(places);
  }

  /** Numbers between two of the same length. */
  #digitsBetween(from: string, to: string): number {
    const at = (index: number, isLeast: boolean, isMost: boolean): number => {
      const left = from.length - index;
      const isFree = (!isLeast || /^0*$/.test(from.slice(index))) && (!isMost || /^9*$/.test(to.slice(index)));
      if (isFree) return this.#digitsLeft(left);
      const first = isLeast ? from.charCodeAt(index) : ZERO;
      const last = isMost ? to.charCodeAt(index) : NINE;
      const ends = [...new Set([first, last])].filter(
        (digit) => (isLeast && digit === first) || (isMost && digit === last),
      );
      const inner: [number, number, number] = [first, last, this.#digitsLeft(left - 1)];
      const bounds = ends.map((digit): [number, number, number] => {
        return [digit, digit, at(index + 1, isLeast && digit === first, isMost && digit === last)];
      });
      return this.#builder.bytes(inner, ...bounds);
    };
    return at(0, true, true);
  }

  /** So many digits, whichever. */
  #digitsLeft(count: number): number {
    for (let known = this.#anyDigits.length; known <= count; known++) {
      this.#anyDigits.push(this.#builder.bytes([ZERO, NINE, this.#anyDigits[known - 1] as number]));
    }
    return this.#anyDigits[count] as number;
  }
}
