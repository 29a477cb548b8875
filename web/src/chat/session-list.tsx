/** @file The sessions of the server, to go back to. */
import { useState } from "preact/hooks";
import { count, excerpt, formatBytes } from "../format.js";
import type { Playground } from "../state/playground.js";

/** The list; on narrow screens it opens on request. */
export function SessionList({ playground }: { playground: Playground }) {
  const [open, setOpen] = useState(false);
  const { sessions, current } = playground;
  return (
    <nav class={`sessions ${open ? "open" : ""}`} aria-label="Sessions">
      <div class="sessions-head">
        <a class="plain button" href="#new" onClick={() => setOpen(false)}>
          New session
        </a>
        <button type="button" class="link sessions-toggle" aria-expanded={open} onClick={() => setOpen(!open)}>
          {count(sessions.length, "session")}
        </button>
      </div>
      <ul>
        {sessions.map(({ id, metadata, method, memory, parent }) => (
          <li key={id}>
            <a href={`#s/${id}`} aria-current={id === current?.id ? "page" : undefined} onClick={() => setOpen(false)}>
              <span class="session-title">
                {excerpt(metadata["title"] ?? playground.transcripts.title(id) ?? id, 60)}
              </span>
              <span class="quiet">
                {parent === null ? "" : "fork · "}
                {method} · {count(memory.slots, "slot")} · {formatBytes(memory.bytes)}
              </span>
            </a>
          </li>
        ))}
        {sessions.length === 0 && <li class="quiet">No sessions yet.</li>}
      </ul>
    </nav>
  );
}
