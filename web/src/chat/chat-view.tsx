/** @file One session: its conversation and its memory. */
import { useRef, useState } from "preact/hooks";
import type { ModelView } from "../api/types.js";
import { useObserved } from "../state/observable.js";
import type { Playground } from "../state/playground.js";
import { MemoryPanel } from "../memory/memory-panel.js";
import { Composer } from "./composer.js";
import { EXAMPLE, QUESTIONS } from "./example.js";
import { SessionList } from "./session-list.js";
import { Transcript } from "./transcript.js";

/** Which half a narrow screen shows. */
type Half = "talk" | "memory";

/** The view. */
export function ChatView({ playground, theme }: { playground: Playground; theme: string }) {
  const { current } = playground;
  useObserved(...(current === undefined ? [] : [current]));
  const [half, setHalf] = useState<Half>("talk");
  const answered = current?.turns.findLast(({ kind }) => kind === "answer");
  return (
    <div class={`chat-view show-${half}`}>
      <SessionList playground={playground} />
      <div class="halves segmented" role="group" aria-label="What to show">
        <button type="button" aria-pressed={half === "talk"} onClick={() => setHalf("talk")}>
          Conversation
        </button>
        <button type="button" aria-pressed={half === "memory"} onClick={() => setHalf("memory")}>
          Memory
        </button>
      </div>
      <main class="talk" aria-label="Chat">
        <p class="for-readers" role="status">
          {answered?.status === "done" ? answered.answer : ""}
        </p>
        {current === undefined ? (
          <NewSession playground={playground} />
        ) : (
          <>
            <SessionHead playground={playground} />
            {current.turns.length === 0 && current.session.step === 0 ? (
              <Suggestions playground={playground} />
            ) : (
              <Transcript
                conversation={current}
                onFork={(step) => void playground.fork(step)}
                onRewind={(turn) => void playground.rewind(turn)}
              />
            )}
          </>
        )}
        <Composer
          focusKey={`${current?.id} ${current?.turns.length} ${playground.busy}`}
          busy={playground.busy}
          options={playground.options}
          onOptions={(options) => playground.setOptions(options)}
          onSend={(text) => void playground.send(text)}
          onRemember={(content) => void playground.remember([{ role: "user", content }])}
          onStop={() => current?.stop()}
        />
      </main>
      <MemoryPanel conversation={current} theme={theme} key={current?.id} />
    </div>
  );
}

function SessionHead({ playground }: { playground: Playground }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { current } = playground;
  if (current === undefined) return null;
  const { session } = current;
  return (
    <div class="session-head">
      <div>
        <h2>{session.metadata["title"] ?? session.id}</h2>
        <p class="quiet">
          {session.method}
          {session.parent !== null && (
            <>
              {" · forked from "}
              <a href={`#s/${session.parent}`}>{session.parent.slice(0, 13)}…</a>
            </>
          )}
        </p>
      </div>
      <span class="spread" />
      <button
        type="button"
        class="link"
        disabled={current.busy || session.step === 0}
        onClick={() => void playground.rewind(-1)}
      >
        Start over
      </button>
      <button type="button" class="link" onClick={() => dialog.current?.showModal()}>
        Delete
      </button>
      <dialog ref={dialog} aria-labelledby="delete-title">
        <h2 id="delete-title">Delete this session?</h2>
        <p>Its memory and all earlier states are deleted from the server.</p>
        <form method="dialog" class="dialog-row">
          <button class="plain">Keep it</button>
          <button class="main danger" onClick={() => void playground.deleteCurrent()}>
            Delete
          </button>
        </form>
      </dialog>
    </div>
  );
}

function NewSession({ playground }: { playground: Playground }) {
  const { model, choice } = playground;
  return (
    <div class="new-session">
      <h1>Talk, and watch what is kept</h1>
      <p>
        Each turn is compressed into a few slots of keys and values. The panel shows them, what they cost beside a full
        cache, and which of them an answer looks at.
      </p>
      {model !== undefined && (
        <label class="method-choice">
          Memory of this session
          <select
            value={choice.method ?? ""}
            onChange={({ currentTarget: { value } }) => playground.setChoice(value === "" ? {} : { method: value })}
          >
            <option value="">{model.precis.default_memory.method ?? "the adapter’s own"} (the server’s default)</option>
            {methodsOf(model).map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
      )}
      <Suggestions playground={playground} />
    </div>
  );
}

/** Methods that this server can run without being told of an adapter. */
function methodsOf({ precis }: ModelView): string[] {
  const trained = new Set(precis.adapters.map(({ method }) => method));
  return precis.methods.filter(({ name, needs_adapter: needs }) => !needs || trained.has(name)).map(({ name }) => name);
}

function Suggestions({ playground }: { playground: Playground }) {
  return (
    <div class="suggestions">
      <button type="button" disabled={playground.busy} onClick={() => void playground.remember(EXAMPLE)}>
        <b>Remember an example</b>
        <span>six messages about a weekend, each a step</span>
      </button>
      <button type="button" disabled={playground.busy} onClick={() => void playground.send(QUESTIONS[1] ?? "")}>
        <b>Ask</b>
        <span>{QUESTIONS[1]}</span>
      </button>
    </div>
  );
}
