/** @file What was said, turn by turn. */
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Conversation } from "../state/conversation.js";
import { useObserved } from "../state/observable.js";
import type { Turn } from "../state/transcripts.js";
import { count } from "../format.js";

/** What a transcript offers on its turns. */
export interface TranscriptProps {
  conversation: Conversation;
  onFork?: (step: number) => void;
  /** Gets the number of the turn, from 0. */
  onRewind?: (turn: number) => void;
}

/** The turns; keeps the end in sight while one reads there. */
export function Transcript({ conversation, onFork, onRewind }: TranscriptProps) {
  useObserved(conversation);
  const list = useRef<HTMLOListElement>(null);
  const atEnd = useRef(true);
  useEffect(() => {
    // A list that was hidden comes back scrolled to its beginning.
    const observer = new ResizeObserver(([entry]) => {
      if (atEnd.current && entry !== undefined) entry.target.scrollTop = entry.target.scrollHeight;
    });
    if (list.current !== null) observer.observe(list.current);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    const box = list.current;
    if (box !== null && atEnd.current) box.scrollTop = box.scrollHeight;
  });
  const { turns, session } = conversation;
  const unknown =
    session.step - turns.filter(({ status }) => status === "done").reduce((n, t) => n + t.step - t.from, 0);
  return (
    <ol
      ref={list}
      class="transcript"
      tabIndex={0}
      aria-label="Conversation"
      onScroll={({ currentTarget: box }) => {
        if (box.clientHeight === 0) return;
        atEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      }}
    >
      {unknown > 0 && !conversation.busy && (
        <li class="quiet">
          {count(unknown, "step")} of this session {unknown === 1 ? "was" : "were"} not said in this browser. The memory
          has {unknown === 1 ? "it" : "them"}; the words are not kept.
        </li>
      )}
      {turns.map((turn, index) => (
        <TurnView
          // A turn keeps its place for as long as it is there.
          key={`${index}-${turn.from}`}
          turn={turn}
          latest={index === turns.length - 1}
          canGoBack={conversation.kept.has(turn.step) && !conversation.busy}
          {...(onFork && { onFork })}
          {...(onRewind && { onRewind: () => onRewind(index) })}
        />
      ))}
    </ol>
  );
}

function TurnView(props: {
  turn: Turn;
  latest: boolean;
  canGoBack: boolean;
  onFork?: (step: number) => void;
  onRewind?: () => void;
}) {
  const { turn, latest, canGoBack, onFork, onRewind } = props;
  const { kind, role, text, answer, status, step, error } = turn;
  const running = status === "running";
  const gone = canGoBack || running ? undefined : "The server does not keep this state any more";
  return (
    <li class={`turn ${kind} by-${role}`}>
      <div class={`said ${role}`}>
        <span class="for-readers">{role === "assistant" ? "The assistant said: " : "You said: "}</span>
        {text}
      </div>
      {kind === "answer" && (answer !== "" || running) && (
        <div class="said assistant" aria-busy={running}>
          <span class="for-readers">Answer: </span>
          {answer}
          {running && <span class="caret" aria-label={answer === "" ? "The answer is being written" : undefined} />}
        </div>
      )}
      {status === "stopped" && <p class="quiet">Stopped. Nothing of this turn was remembered.</p>}
      {error !== undefined && (
        <p class="alert" role="alert">
          {error.message} {error.nextStep}
        </p>
      )}
      {status === "done" && (
        <div class="turn-foot">
          <span class="quiet">{describe(turn)}</span>
          {onFork !== undefined && (
            <button type="button" class="link" disabled={!canGoBack} title={gone} onClick={() => onFork(step)}>
              Fork<span class="for-readers"> after step {step}</span>
            </button>
          )}
          {onRewind !== undefined && !latest && (
            <button type="button" class="link" disabled={!canGoBack} title={gone} onClick={onRewind}>
              Rewind to here<span class="for-readers"> (step {step})</span>
            </button>
          )}
        </div>
      )}
    </li>
  );
}

function describe({ kind, step, from, tokensPerSecond, reason }: Turn): string {
  const steps = step - from > 1 ? `Steps ${from + 1}–${step}` : `Step ${step}`;
  if (kind === "context") return `${steps} · remembered`;
  const speed = tokensPerSecond === undefined ? "" : ` · ${Math.round(tokensPerSecond)} tokens/s`;
  return `${steps}${speed}${reason === "length" ? " · cut at the longest answer" : ""}`;
}
