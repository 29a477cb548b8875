/** @file What a session holds: sizes, their course, and the slots with what the last answer looked at. */
import { useMemo, useState } from "preact/hooks";
import { count, excerpt, formatBytes, formatRatio, formatShare } from "../format.js";
import type { Conversation } from "../state/conversation.js";
import { useObserved } from "../state/observable.js";
import { BytesChart } from "./bytes-chart.js";
import { groupSlots, scaleTop, stepsLabel, type StepGroup } from "./groups.js";
import { MemoryMap, type Cell } from "./memory-map.js";
import { StepList } from "./step-list.js";

/** Which slots are shown: those that the last answer looked at, or those that are held now. */
type View = "read" | "held";

const NOTHING: ReadonlySet<number> = new Set();

/** Slots with their attention, or without. */
function useShown(conversation: Conversation, view: View) {
  const { attention, held } = conversation;
  const read = view === "read" && attention.status === "ready" ? attention.attention : undefined;
  const slots = read?.slots ?? held?.slots ?? [];
  const shares = read?.layers;
  const groups = useMemo(() => groupSlots(slots, shares), [slots, shares]);
  const own = read && read.own.reduce((sum, share) => sum + share, 0) / Math.max(1, read.own.length);
  return { read, slots, shares, groups, own };
}

/** The panel beside a chat. */
export function MemoryPanel({ conversation, theme }: { conversation: Conversation | undefined; theme: string }) {
  if (conversation === undefined) {
    return (
      <section class="memory" aria-label="Memory">
        <h2>Memory</h2>
        <p class="quiet">
          Empty. After the first turn this shows what the memory keeps of it: a column per layer, a cell per slot, and
          how much of it later answers look at.
        </p>
      </section>
    );
  }
  return (
    <section class="memory" aria-label="Memory">
      <h2>Memory</h2>
      <Sizes conversation={conversation} />
      <Slots conversation={conversation} theme={theme} name="Memory map" height={320} />
    </section>
  );
}

function Sizes({ conversation }: { conversation: Conversation }) {
  useObserved(conversation);
  const { turns, session } = conversation;
  const finished = turns.filter(({ usage }) => usage !== undefined);
  const memory = finished.at(-1)?.usage ?? session.memory;
  return (
    <>
      <dl class="figures">
        <div>
          <dt>Held</dt>
          <dd>{formatBytes(memory.bytes)}</dd>
        </div>
        <div>
          <dt>Full cache</dt>
          <dd>{formatBytes(memory.full_cache_bytes)}</dd>
        </div>
        <div>
          <dt>Smaller by</dt>
          <dd>{memory.slots === 0 ? "–" : formatRatio(memory.ratio)}</dd>
        </div>
      </dl>
      <p class="quiet">
        {memory.method}: {count(memory.slots, "slot")} for {count(memory.tokens_seen, "token")} in{" "}
        {count(memory.steps, "step")}
      </p>
      {finished.length > 0 && (
        <BytesChart
          series={[
            { name: "Full cache", tone: "full", values: finished.map(({ usage }) => usage?.full_cache_bytes) },
            { name: "Held", tone: "memory", values: finished.map(({ usage }) => usage?.bytes) },
          ]}
        />
      )}
    </>
  );
}

/** The map with its legend, the cell that is pointed at, and the steps. */
export function Slots(props: {
  conversation: Conversation;
  theme: string;
  name: string;
  height: number;
  brief?: boolean;
}) {
  const { conversation, theme, name, height, brief = false } = props;
  useObserved(conversation);
  const [view, setView] = useState<View>("read");
  const [cell, setCell] = useState<Cell | undefined>();
  const [group, setGroup] = useState<StepGroup | undefined>();
  const { read, slots, shares, groups, own } = useShown(conversation, view);
  const { attention, held, failure } = conversation;
  const marked = useMemo(() => {
    const steps = cell === undefined ? undefined : slots[cell.slot]?.steps?.join();
    const chosen = group ?? groups.find((each) => steps !== undefined && each.steps?.join() === steps);
    return chosen === undefined ? NOTHING : new Set(chosen.slots);
  }, [group, cell?.slot, groups, slots]);
  if (failure !== undefined) return <p class="alert">The memory cannot be read: {failure}</p>;
  if (held === undefined) return <p class="quiet">Reading the memory…</p>;
  return (
    <>
      <div class="map-head">
        <div class="segmented" role="group" aria-label="Which slots">
          <button type="button" aria-pressed={view === "read"} onClick={() => setView("read")}>
            Last answer
          </button>
          <button type="button" aria-pressed={view === "held"} onClick={() => setView("held")}>
            Held now
          </button>
        </div>
        {shares !== undefined && slots.length > 0 && <Legend top={scaleTop(shares)} />}
      </div>
      {view === "read" && attention.status === "none" && <p class="quiet">{attention.why}</p>}
      {view === "read" && attention.status === "loading" && <p class="quiet">Reading where the answer looked…</p>}
      {slots.length === 0 ? (
        <p class="quiet">{read === undefined ? "No slots are held." : "There were no slots to look at."}</p>
      ) : (
        <>
          <LayerNumbers layers={held.layers} />
          <MemoryMap
            name={name}
            slots={slots}
            layers={held.layers}
            shares={shares}
            marked={marked}
            height={height}
            onCell={setCell}
            theme={theme}
          />
          <CellDetail cell={cell} conversation={conversation} slots={slots} shares={shares} brief={brief} />
          {!brief && (
            <StepList groups={groups} own={own} textOf={(step) => conversation.textOf(step)} onMark={setGroup} />
          )}
        </>
      )}
    </>
  );
}

function LayerNumbers({ layers }: { layers: number }) {
  return (
    <div class="layer-numbers" aria-hidden="true">
      <span>step</span>
      <span>layer 1</span>
      <span>{layers > 1 ? layers : ""}</span>
    </div>
  );
}

function Legend({ top }: { top: number }) {
  return (
    <span class="ramp" title="Share of a layer's attention, mean over heads and over the tokens of the answer">
      0
      <span class="ramp-bar" aria-hidden="true" />
      {formatShare(top)} or more
    </span>
  );
}

function CellDetail(props: {
  cell: Cell | undefined;
  conversation: Conversation;
  slots: ReturnType<typeof useShown>["slots"];
  shares: ReturnType<typeof useShown>["shares"];
  brief: boolean;
}) {
  const { cell, conversation, slots, shares, brief } = props;
  const slot = cell && slots[cell.slot];
  const size = brief ? "cell-detail brief" : "cell-detail";
  if (cell === undefined || slot === undefined) {
    return <p class={`${size} quiet`}>Point at a cell, or walk with the arrow keys, to see where it comes from.</p>;
  }
  const share = shares?.[cell.layer]?.[cell.slot];
  const { steps, tokens, kind } = slot;
  const text = steps !== null && steps[0] === steps[1] ? conversation.textOf(steps[0]) : undefined;
  const what = { text: "a token as it was read", sink: "a first token, kept as it is" }[kind as "text" | "sink"];
  const span =
    tokens === null
      ? ""
      : tokens[1] - tokens[0] === 1
        ? `token ${tokens[0] + 1}`
        : `tokens ${tokens[0] + 1}–${tokens[1]}`;
  return (
    <div class={size}>
      <p>
        <b>{stepsLabel(steps)}</b>
        {span !== "" && `, ${span}`}
        {share !== undefined && (
          <>
            {" · "}
            <b class="number">{formatShare(share)}</b> of layer {cell.layer + 1}’s attention
          </>
        )}
      </p>
      {!brief && (
        <p class="quiet">
          Layer {cell.layer + 1}, slot {cell.slot + 1}: {what ?? "compressed"}
        </p>
      )}
      {text !== undefined && <p class="cell-text">{excerpt(text, brief ? 70 : 160)}</p>}
      {text === undefined && steps !== null && steps[0] === steps[1] && (
        <p class="quiet">What was said then is not stored in this browser.</p>
      )}
    </div>
  );
}
