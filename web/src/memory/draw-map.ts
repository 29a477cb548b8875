/** @file Painting the memory map: a column per layer, a row per slot. */

/** Where cells lie, in CSS pixels. */
export interface MapLayout {
  left: number;
  columnWidth: number;
  rowHeight: number;
  width: number;
  height: number;
  slots: number;
  layers: number;
}

/** Room on the left for the numbers of steps. */
const GUTTER = 34;
const COLUMN_GAP = 2;

/** Fits the cells into a width; rows are as high as is good for so many, and at least high enough to point at. */
export function layOut(width: number, slots: number, layers: number, height: number): MapLayout {
  const rowHeight = Math.max(5, Math.min(18, Math.floor(height / Math.max(1, slots))));
  const columnWidth = Math.max(3, (width - GUTTER) / Math.max(1, layers));
  return { left: GUTTER, columnWidth, rowHeight, width, height: rowHeight * slots, slots, layers };
}

/** The cell at a point, or undefined. */
export function cellAt(layout: MapLayout, x: number, y: number): { layer: number; slot: number } | undefined {
  const layer = Math.floor((x - layout.left) / layout.columnWidth);
  const slot = Math.floor(y / layout.rowHeight);
  const inside = layer >= 0 && layer < layout.layers && slot >= 0 && slot < layout.slots;
  return inside ? { layer, slot } : undefined;
}

/** What is painted. */
export interface MapPicture {
  layout: MapLayout;
  /** Per layer the strength of each slot's colour, 0 to 1; undefined where there is none to show. */
  strengths: readonly (readonly number[])[] | undefined;
  /** First slots of groups, with what stands beside them. */
  labels: readonly { slot: number; text: string }[];
  /** Slots that are marked. */
  marked: ReadonlySet<number>;
  selected: { layer: number; slot: number } | undefined;
}

/** Colours of the page's theme. */
interface Palette {
  ramp: [number, number, number][];
  plain: string;
  ink: string;
  faint: string;
  mark: string;
  font: string;
}

function readPalette(element: Element): Palette {
  const style = getComputedStyle(element);
  const read = (name: string): string => style.getPropertyValue(name).trim();
  const channels = (hex: string): [number, number, number] => [
    parseInt(hex.slice(1, 3), 16),
    parseInt(hex.slice(3, 5), 16),
    parseInt(hex.slice(5, 7), 16),
  ];
  return {
    ramp: [0, 1, 2, 3, 4].map((stop) => channels(read(`--ramp-${stop}`))),
    plain: read("--cell-plain"),
    ink: read("--ink"),
    faint: read("--ink-faint"),
    mark: read("--accent"),
    font: style.fontFamily,
  };
}

function rampColor(ramp: Palette["ramp"], strength: number): string {
  const at = Math.max(0, Math.min(1, strength)) * (ramp.length - 1);
  const low = Math.min(ramp.length - 2, Math.floor(at));
  const mix = ramp[low]?.map((channel, i) => Math.round(channel + ((ramp[low + 1]?.[i] ?? 0) - channel) * (at - low)));
  return `rgb(${mix?.join(" ")})`;
}

/** Paints the map at the screen's own resolution. */
export function drawMap(canvas: HTMLCanvasElement, { layout, strengths, labels, marked, selected }: MapPicture): void {
  const { left, columnWidth, rowHeight, width, height, slots, layers } = layout;
  // Browsers refuse canvases that are much larger.
  const scale = Math.min(devicePixelRatio, 16_000 / Math.max(1, height));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  if (context === null) return;
  const palette = readPalette(canvas);
  context.scale(scale, scale);
  const gap = rowHeight >= 8 ? 1.5 : rowHeight >= 6 ? 1 : 0.5;
  for (let layer = 0; layer < layers; layer++) {
    const x = left + layer * columnWidth;
    for (let slot = 0; slot < slots; slot++) {
      const strength = strengths?.[layer]?.[slot];
      context.fillStyle = strength === undefined ? palette.plain : rampColor(palette.ramp, strength);
      context.fillRect(x, slot * rowHeight, columnWidth - COLUMN_GAP, rowHeight - gap);
    }
  }
  context.fillStyle = palette.mark;
  for (const slot of marked) context.fillRect(left - 5, slot * rowHeight, 3, rowHeight - gap);
  context.font = `10.5px ${palette.font}`;
  context.textAlign = "right";
  context.textBaseline = "top";
  let free = -Infinity;
  for (const { slot, text } of labels) {
    const y = slot * rowHeight;
    if (y < free) continue;
    context.fillStyle = marked.has(slot) ? palette.ink : palette.faint;
    context.fillText(text, left - 9, y + Math.max(0, Math.min(3, (rowHeight - 11) / 2)));
    free = y + 13;
  }
  if (selected === undefined) return;
  context.strokeStyle = palette.ink;
  context.lineWidth = 2;
  const [x, y] = [left + selected.layer * columnWidth, selected.slot * rowHeight];
  context.strokeRect(x - 1, Math.max(1, y - 1), columnWidth - COLUMN_GAP + 2, rowHeight - gap + 2);
}
