/** @file Short texts of many origins, from which tasks are invented: sentences, turns of dialogues, inputs of tasks. */
import type { SeededRandom } from "../random.js";
import type { RecordOf, TextRecord } from "../records.js";
import type { LoadedSource } from "../sources.js";

/** Texts that have something in common: a book, a collection of documents, dialogues of one kind, a task's inputs. */
export interface Material {
  name: string;
  /** One of its texts, or nothing if the draw was not of use. */
  draw(random: SeededRandom): string | undefined;
}

/** Shortest and longest text, in characters. */
const LENGTHS = { least: 12, most: 200 } as const;

/** A text this long, in characters, is material of its own. */
const LONG_TEXT = 50_000;

/** What the sources offer; a long text stands for itself beside its source. */
export function materialOf(sources: readonly LoadedSource[]): Material[] {
  return sources.flatMap((source) => {
    const { name, setting, records } = source;
    switch (setting) {
      case "conversation":
        return [{ name, draw: (random) => turn(records as RecordOf["conversation"][], random) }];
      case "icl":
        return [{ name, draw: (random) => usable(random.pick(records as RecordOf["icl"][]).input) }];
      case "stream": {
        const texts = records as TextRecord[];
        const long = texts.filter(({ text }) => text.length >= LONG_TEXT);
        return [
          { name, draw: (random: SeededRandom) => sentence(random.pick(texts).text, random) },
          ...long.map(({ title, text }) => ({ name: title, draw: (random: SeededRandom) => sentence(text, random) })),
        ];
      }
      default:
        // A profile says something about its user only, whose rating is not to be guessed from other users' entries.
        return [];
    }
  });
}

function usable(text: string): string | undefined {
  const { length } = text.trim();
  return length >= LENGTHS.least && length <= LENGTHS.most ? text.trim() : undefined;
}

function turn(records: readonly RecordOf["conversation"][], random: SeededRandom): string | undefined {
  const { turns } = random.pick(records);
  return turns.length === 0 ? undefined : usable(random.pick(turns).content);
}

/** The first whole sentence after a random place. */
function sentence(text: string, random: SeededRandom): string | undefined {
  const start = random.between(0, Math.max(0, text.length - 2 * LENGTHS.most));
  const excerpt = text.slice(start, start + 4 * LENGTHS.most).replace(/\s+/g, " ");
  const [, found] = /[.!?]["'”’]? (.*?[.!?]["'”’]?) /.exec(excerpt) ?? [];
  return found === undefined ? undefined : usable(found);
}
