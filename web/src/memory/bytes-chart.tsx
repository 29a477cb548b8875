/** @file Bytes of memories over the turns, beside what a full cache would hold. */
import { useEffect, useRef, useState } from "preact/hooks";
import { formatBytes } from "../format.js";

/** One line of the chart. */
export interface Series {
  name: string;
  tone: "memory" | "full" | "window";
  /** Bytes after each turn; undefined where there is no value. */
  values: readonly (number | undefined)[];
}

const MARGIN = { top: 10, right: 8, bottom: 20, left: 52 };

/** Round numbers from 0 to at least `top`. */
export function ticks(top: number): number[] {
  const rough = top / 3;
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  return Array.from({ length: Math.ceil(top / step) + 1 }, (_, index) => index * step);
}

function pathOf(values: Series["values"], x: (index: number) => number, y: (value: number) => number): string {
  let drawing = false;
  return values
    .map((value, index) => {
      if (value === undefined) return ((drawing = false), "");
      const command = drawing ? "L" : "M";
      drawing = true;
      return `${command}${x(index).toFixed(1)},${y(value).toFixed(1)}`;
    })
    .join("");
}

/** The chart. Values of the turn that is pointed at, else of the latest, stand in the legend. */
export function BytesChart({ series, height = 132 }: { series: readonly Series[]; height?: number }) {
  const frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  const [pointed, setPointed] = useState<number | undefined>();
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry?.contentRect.width ?? 0));
    if (frame.current !== null) observer.observe(frame.current);
    return () => observer.disconnect();
  }, []);
  const turns = Math.max(0, ...series.map(({ values }) => values.length));
  const most = Math.max(1, ...series.flatMap(({ values }) => values.filter((value) => value !== undefined)));
  const marks = ticks(most);
  const top = marks.at(-1) ?? 1;
  const inner = Math.max(0, width - MARGIN.left - MARGIN.right);
  const x = (index: number): number => MARGIN.left + (turns <= 1 ? inner / 2 : (index / (turns - 1)) * inner);
  const y = (value: number): number => height - MARGIN.bottom - (value / top) * (height - MARGIN.top - MARGIN.bottom);
  const shown = pointed ?? turns - 1;
  const point = (event: PointerEvent): void => {
    const left = frame.current?.getBoundingClientRect().left ?? 0;
    const at = (event.clientX - left - MARGIN.left) / Math.max(1, inner);
    setPointed(Math.max(0, Math.min(turns - 1, Math.round(at * (turns - 1)))));
  };
  const last = series.map(({ name, values }) => `${name} ${formatBytes(values.at(-1) ?? 0)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        {series.map(({ name, tone, values }) => (
          <span key={name} class={`legend tone-${tone}`}>
            <span class="legend-line" aria-hidden="true" />
            {name} <b class="number">{values[shown] === undefined ? "–" : formatBytes(values[shown])}</b>
          </span>
        ))}
        <span class="legend-turn">{turns === 0 ? "" : `after turn ${shown + 1}`}</span>
      </figcaption>
      <div ref={frame} onPointerMove={point} onPointerLeave={() => setPointed(undefined)}>
        <svg
          width={width}
          height={height}
          role="img"
          aria-label={`Bytes after each of ${turns} turns. Latest: ${last}.`}
        >
          {marks.map((mark) => (
            <g key={mark}>
              <line class="grid" x1={MARGIN.left} x2={width - MARGIN.right} y1={y(mark)} y2={y(mark)} />
              <text class="tick" x={MARGIN.left - 8} y={y(mark) + 3.5} text-anchor="end">
                {formatBytes(mark)}
              </text>
            </g>
          ))}
          {turns > 0 && (
            <text class="tick" x={x(0)} y={height - 4} text-anchor={turns > 1 ? "start" : "middle"}>
              turn 1
            </text>
          )}
          {turns > 1 && (
            <text class="tick" x={x(turns - 1)} y={height - 4} text-anchor="end">
              {turns}
            </text>
          )}
          {pointed !== undefined && <line class="cursor" x1={x(shown)} x2={x(shown)} y1={MARGIN.top} y2={y(0)} />}
          {series.map(({ name, tone, values }) => (
            <g key={name} class={`line tone-${tone}`}>
              <path d={pathOf(values, x, y)} />
              {values[shown] !== undefined && <circle cx={x(shown)} cy={y(values[shown])} r={3.5} />}
            </g>
          ))}
        </svg>
      </div>
    </figure>
  );
}
