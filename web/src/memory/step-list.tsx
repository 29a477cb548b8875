/** @file The steps that a memory stands for, with the attention that each got. */
import { excerpt, formatShare } from "../format.js";
import { stepsLabel, type StepGroup } from "./groups.js";

/** What the list shows. */
export interface StepListProps {
  groups: readonly StepGroup[];
  /** Share that the turn paid to itself. */
  own: number | undefined;
  textOf: (step: number) => string | undefined;
  onMark: (group: StepGroup | undefined) => void;
}

function Share({ share, top }: { share: number; top: number }) {
  return (
    <span class="share">
      <span class="share-bar" aria-hidden="true">
        <span style={{ width: `${(100 * share) / Math.max(top, 1e-9)}%` }} />
      </span>
      <span class="number">{formatShare(share)}</span>
    </span>
  );
}

/** A row per group; pointing at one marks its slots in the map. */
export function StepList({ groups, own, textOf, onMark }: StepListProps) {
  const top = Math.max(...groups.map(({ share }) => share ?? 0));
  return (
    <ol class="steps" aria-label="What the slots stand for, by step">
      {groups.map((group) => {
        const [first, last] = group.steps ?? [];
        const text = first !== undefined && first === last ? textOf(first) : undefined;
        const many = first !== undefined && first !== last ? "merged" : "";
        return (
          <li key={stepsLabel(group.steps)}>
            <button
              type="button"
              onPointerEnter={() => onMark(group)}
              onPointerLeave={() => onMark(undefined)}
              onFocus={() => onMark(group)}
              onBlur={() => onMark(undefined)}
            >
              <span class="step-name">{stepsLabel(group.steps)}</span>
              <span class="step-text">{text === undefined ? many : excerpt(text, 90)}</span>
              {group.share !== undefined && <Share share={group.share} top={top} />}
            </button>
          </li>
        );
      })}
      {own !== undefined && (
        <li class="own">
          <span class="step-name">Itself</span>
          <span class="step-text">the question and the answer so far</span>
          <span class="share">
            <span />
            <span class="number">{formatShare(own)}</span>
          </span>
        </li>
      )}
    </ol>
  );
}
