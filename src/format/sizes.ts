/** @file Sizes for people: bytes, and how many times smaller something is. */

/** A size for people: `"54.9 MB"`, decimal units, three digits. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

/** `"17×"`, `"1.8×"`; `"–"` where there is nothing to compare with. */
export function formatRatio(ratio: number): string {
  if (ratio === 0) return "–";
  return `${ratio.toFixed(ratio < 9.95 ? 1 : 0)}×`;
}
