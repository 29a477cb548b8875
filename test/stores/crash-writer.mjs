/**
 * A process that appends to a session until it is killed. Arguments: kind of store, its folder, the writer's name.
 * Writes the name of each append on a line of its own once the store has acknowledged it.
 */
import { writeSync } from "node:fs";
import { openStore, key } from "./crash-store.mjs";
import { updateSession } from "#precis/stores/update-session.js";

const [kind, folder, name] = process.argv.slice(2);
const store = await openStore(kind, folder);
for (let i = 0; ; i++) {
  const append = `${name}.${i}`;
  await updateSession(store, key, (now) => {
    const lines = [...(now?.metadata.lines ?? []), append];
    // Bytes that fill some pages, so that a torn write would show.
    return { bytes: Buffer.alloc(200_000, append), metadata: { lines } };
  });
  writeSync(1, `${append}\n`);
}
