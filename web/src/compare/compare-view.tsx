/** @file The same input to three memories, side by side. */
import { useState } from "preact/hooks";
import { EXAMPLE, QUESTIONS } from "../chat/example.js";
import { Composer } from "../chat/composer.js";
import { Transcript } from "../chat/transcript.js";
import { formatBytes, formatRatio } from "../format.js";
import { BytesChart, type Series } from "../memory/bytes-chart.js";
import { Slots } from "../memory/memory-panel.js";
import type { Lane } from "../state/comparison.js";
import { useObserved } from "../state/observable.js";
import type { Playground } from "../state/playground.js";
import type { Turn } from "../state/transcripts.js";

const TONES: readonly Series["tone"][] = ["full", "window", "memory"];

/** The view. */
export function CompareView({ playground, theme }: { playground: Playground; theme: string }) {
  const { comparison, model } = playground;
  useObserved(comparison);
  const [shown, setShown] = useState(2);
  const { lanes, busy } = comparison;
  if (model === undefined) return null;
  const send = (text: string): void => void playground.compare((one) => one.send(text, model, playground.options));
  const remember = (messages: typeof EXAMPLE): void => void playground.compare((one) => one.remember(messages, model));
  return (
    <main class="compare-view" aria-label="Comparison">
      {lanes.length === 0 ? (
        <div class="new-session">
          <h1>One input, three memories</h1>
          <p>
            A full cache, a sliding window and a compressed memory get the same messages. Each answers from what it
            holds; the chart shows what that costs.
          </p>
          <div class="suggestions">
            <button type="button" disabled={busy} onClick={() => remember(EXAMPLE)}>
              <b>Remember an example</b>
              <span>six messages about a weekend, each a step</span>
            </button>
            <button type="button" disabled={busy} onClick={() => send(QUESTIONS[1] ?? "")}>
              <b>Ask</b>
              <span>{QUESTIONS[1]}</span>
            </button>
          </div>
        </div>
      ) : (
        <>
          <div class="compare-chart">
            <BytesChart
              height={104}
              series={lanes.map(({ label, conversation }, index) => ({
                name: label,
                tone: TONES[index] ?? "memory",
                values: bytesOf(conversation.turns),
              }))}
            />
            <button
              type="button"
              class="link"
              disabled={busy}
              onClick={() => void playground.compare((one) => one.clear())}
            >
              Delete all three and start again
            </button>
          </div>
          <div class="lane-choice segmented" role="group" aria-label="Which memory">
            {lanes.map(({ label }, index) => (
              <button key={label} type="button" aria-pressed={shown === index} onClick={() => setShown(index)}>
                {label}
              </button>
            ))}
          </div>
          <div class="lanes">
            {lanes.map((lane, index) => (
              <LaneView
                key={lane.conversation.id}
                lane={lane}
                index={index}
                shown={shown === index}
                theme={theme}
                onRewind={(turn) => void playground.compare((one) => one.rewind(turn))}
              />
            ))}
          </div>
        </>
      )}
      <Composer
        focusKey={`${lanes.length} ${busy}`}
        busy={busy}
        options={playground.options}
        onOptions={(options) => playground.setOptions(options)}
        onSend={send}
        onRemember={(content) => remember([{ role: "user", content }])}
        onStop={() => comparison.stop()}
      />
    </main>
  );
}

/** Bytes after each turn; one that failed or was stopped has changed nothing. */
function bytesOf(turns: readonly Turn[]): number[] {
  let bytes = 0;
  return turns.map(({ usage }) => (bytes = usage?.bytes ?? bytes));
}

function LaneView(props: {
  lane: Lane;
  index: number;
  shown: boolean;
  theme: string;
  onRewind: (turn: number) => void;
}) {
  const { lane, index, shown, theme, onRewind } = props;
  const { conversation, label } = lane;
  useObserved(conversation);
  const { memory } = conversation.session;
  return (
    <section class={`lane ${shown ? "shown" : ""}`} aria-label={label}>
      <header class={`tone-${TONES[index]}`}>
        <h2>{label}</h2>
        <span class="quiet">{conversation.session.method}</span>
        <span class="spread" />
        <b class="number">{formatBytes(memory.bytes)}</b>
        <span class="quiet number">{memory.ratio > 1.005 && `${formatRatio(memory.ratio)} smaller`}</span>
      </header>
      <Transcript conversation={conversation} onRewind={onRewind} />
      <details class="lane-memory" open>
        <summary>Memory</summary>
        <Slots conversation={conversation} theme={theme} name={`${label} map`} height={112} brief />
      </details>
    </section>
  );
}
