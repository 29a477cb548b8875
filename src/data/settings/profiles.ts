/** @file What the records of a source say about one user, all together. */
import type { Demonstration, ProfileRecord } from "../records.js";

type Entries = ReadonlyMap<string, readonly Demonstration[]>;

const entriesOfRecords = new WeakMap<readonly ProfileRecord[], Entries>();

/** Every entry and question of a user's records, each input once; none for a user without records. */
export function userEntries(records: readonly ProfileRecord[], user: string): readonly Demonstration[] {
  let entries = entriesOfRecords.get(records);
  if (entries === undefined) {
    entries = entriesByUser(records);
    entriesOfRecords.set(records, entries);
  }
  return entries.get(user) ?? [];
}

function entriesByUser(records: readonly ProfileRecord[]): Entries {
  const users = new Map<string, Map<string, Demonstration>>();
  for (const { user, profile, query } of records) {
    const known = users.get(user) ?? new Map<string, Demonstration>();
    users.set(user, known);
    for (const entry of [...profile, query]) if (!known.has(entry.input)) known.set(entry.input, entry);
  }
  return new Map([...users].map(([user, known]) => [user, [...known.values()]]));
}
