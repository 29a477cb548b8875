/** @file Options that are whole answers, none of which a model can know by heart. */
import { SeededRandom } from "../../data/random.js";
import type { ProfileRecord } from "../../data/records.js";
import { loadSource, type Source } from "../../data/sources.js";

/** Whether all records offer the same options, so that these are labels rather than answers of someone. */
export function haveSameOptions(records: readonly ProfileRecord[]): boolean {
  return new Set(records.map(({ options }) => options.join("\u0000"))).size <= 1;
}

/**
 * Test records with fair options. Where every record has options of its own, the wrong ones are answers of other people,
 * many of whom are in the training data: a model that has learned their words by heart finds them likelier than the right
 * one. Those are replaced by answers of other test users.
 */
export async function withUnseenOptions(
  source: Source<"personal">,
  records: readonly ProfileRecord[],
  seed: number,
): Promise<readonly ProfileRecord[]> {
  const learned = new Set<string>();
  for (const split of ["train", "dev"] as const) {
    for (const { profile, query } of (await loadSource(source, split)).records) {
      for (const { output } of [...profile, query]) learned.add(output);
    }
  }
  return records.map((record) => ({ ...record, options: replaced(record, records, learned, seed) }));
}

function replaced(
  { id, user, query, options }: ProfileRecord,
  records: readonly ProfileRecord[],
  learned: ReadonlySet<string>,
  seed: number,
): string[] {
  const isFair = (option: string): boolean => option === query.output || !learned.has(option);
  const taken = new Set(options);
  const others = records.filter((other) => other.user !== user).map(({ query: { output } }) => output);
  const free = new SeededRandom(seed, "options", id).shuffle(others);
  return options.map((option) => {
    if (isFair(option)) return option;
    const next = free.findIndex((answer) => !taken.has(answer) && !learned.has(answer));
    if (next < 0) return option;
    const [answer = option] = free.splice(next, 1);
    taken.add(answer);
    return answer;
  });
}
