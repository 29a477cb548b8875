/** @file The memory map as one uses it: pointed at with a pointer or walked with the arrow keys. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Slot } from "../api/types.js";
import { formatShare } from "../format.js";
import { cellAt, drawMap, layOut } from "./draw-map.js";
import { scaleTop, stepsKey, stepsLabel } from "./groups.js";

/** A cell. */
export interface Cell {
  layer: number;
  slot: number;
}

/** What a map shows. */
export interface MemoryMapProps {
  name: string;
  slots: readonly Slot[];
  layers: number;
  /** Per layer the share of each slot. */
  shares: readonly (readonly number[])[] | undefined;
  marked: ReadonlySet<number>;
  /** Height that it should take if rows can be made to fit. */
  height: number;
  onCell: (cell: Cell | undefined) => void;
  theme: string;
}

/** A cell in words. */
export function describeCell(slot: Slot | undefined, { layer, slot: index }: Cell, share: number | undefined): string {
  const kind = slot?.kind === "memory" || slot?.kind === "span" ? "compressed" : (slot?.kind ?? "");
  const paid = share === undefined ? "" : `, ${formatShare(share)} of the attention`;
  return `Layer ${layer + 1}, slot ${index + 1}, ${kind}${paid}, ${stepsLabel(slot?.steps)}`;
}

function moved(
  { layer, slot }: Cell,
  key: string,
  { layers, slots }: { layers: number; slots: number },
): Cell | undefined {
  const moves: Record<string, [number, number]> = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, -1],
    ArrowDown: [0, 1],
    PageUp: [0, -10],
    PageDown: [0, 10],
    Home: [0, -slots],
    End: [0, slots],
  };
  const move = moves[key];
  if (move === undefined) return undefined;
  const within = (value: number, size: number): number => Math.max(0, Math.min(size - 1, value));
  return { layer: within(layer + move[0], layers), slot: within(slot + move[1], slots) };
}

/** The map. */
export function MemoryMap({ name, slots, layers, shares, marked, height, onCell, theme }: MemoryMapProps) {
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [walked, setWalked] = useState<Cell | undefined>();
  const [pointed, setPointed] = useState<Cell | undefined>();
  const chosen = pointed ?? walked;
  const selected = chosen !== undefined && chosen.slot < slots.length && chosen.layer < layers ? chosen : undefined;
  const layout = layOut(width, slots.length, layers, height);

  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry?.contentRect.width ?? 0)));
    if (frame.current !== null) observer.observe(frame.current);
    return () => observer.disconnect();
  }, []);

  useLayoutEffect(() => {
    if (canvas.current === null || width === 0) return;
    const top = shares && scaleTop(shares.map((layer) => [...layer]));
    // Small shares differ by factors rather than by amounts, so a root spreads them.
    const strengths = shares?.map((layer) => layer.map((share) => Math.sqrt(share / (top ?? 1))));
    const labels = slots.flatMap((slot, index) => {
      const previous = slots[index - 1];
      if (previous !== undefined && stepsKey(previous) === stepsKey(slot)) return [];
      const [first, last] = slot.steps ?? [];
      return [{ slot: index, text: first === undefined ? "?" : first === last ? `${first}` : `${first}–${last}` }];
    });
    drawMap(canvas.current, { layout, strengths, labels, marked, selected });
  }, [width, slots, layers, shares, marked, height, theme, selected?.layer, selected?.slot]);

  useEffect(() => onCell(selected), [selected?.layer, selected?.slot, slots]);

  const point = (event: PointerEvent): void => {
    const box = canvas.current?.getBoundingClientRect();
    if (box !== undefined) setPointed(cellAt(layout, event.clientX - box.left, event.clientY - box.top));
  };
  const walk = (event: KeyboardEvent): void => {
    if (event.key === "Escape") return setWalked(undefined);
    const next = moved(selected ?? { layer: 0, slot: -1 }, event.key, { layers, slots: slots.length });
    if (next === undefined) return;
    event.preventDefault();
    setPointed(undefined);
    setWalked(next);
    const row = next.slot * layout.rowHeight;
    const box = frame.current;
    if (box === null) return;
    if (row < box.scrollTop) box.scrollTop = row;
    else if (row + layout.rowHeight > box.scrollTop + box.clientHeight)
      box.scrollTop = row + layout.rowHeight - box.clientHeight;
  };
  return (
    <div
      ref={frame}
      class="map"
      role="grid"
      tabIndex={0}
      aria-label={`${name}: ${slots.length} slots in ${layers} layers. Arrow keys walk through the cells.`}
      aria-rowcount={slots.length}
      aria-colcount={layers}
      aria-activedescendant={selected === undefined ? undefined : `${name}-cell`.replaceAll(" ", "-")}
      onKeyDown={walk}
      onFocus={() => walked === undefined && slots.length > 0 && setWalked({ layer: 0, slot: 0 })}
      onBlur={() => setWalked(undefined)}
    >
      <canvas ref={canvas} onPointerMove={point} onPointerDown={point} onPointerLeave={() => setPointed(undefined)} />
      {selected !== undefined && (
        <div role="row" aria-rowindex={selected.slot + 1} class="for-readers">
          <div role="gridcell" id={`${name}-cell`.replaceAll(" ", "-")} aria-colindex={selected.layer + 1}>
            {describeCell(slots[selected.slot], selected, shares?.[selected.layer]?.[selected.slot])}
          </div>
        </div>
      )}
    </div>
  );
}
