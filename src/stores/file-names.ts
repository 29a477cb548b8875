/** @file Names of sessions as names of files: safe where case is ignored, and where some names are reserved. */

/**
 * The name in lower case, `~`, and which of its letters were capitals as hexadecimal digits.
 * At most 161 characters for a valid id; the `~` also keeps names from meaning a device or ending in a dot.
 */
export function toFileName(name: string): string {
  let capitals = "";
  for (let i = 0; i < name.length; i += 4) {
    const bits = Array.from(name.slice(i, i + 4)).reduce(
      (sum, letter, bit) => sum | (Number(isCapital(letter)) << bit),
      0,
    );
    capitals += bits.toString(16);
  }
  return `${name.toLowerCase()}~${capitals.replace(/0+$/, "")}`;
}

/** The inverse of {@link toFileName}; undefined for a name that it does not give. */
export function fromFileName(fileName: string): string | undefined {
  const [lower, capitals] = fileName.split("~");
  if (lower === undefined || capitals === undefined) return undefined;
  const isSet = (i: number): boolean => ((Number.parseInt(capitals[i >> 2] ?? "0", 16) >> (i % 4)) & 1) === 1;
  const name = [...lower].map((letter, i) => (isSet(i) ? letter.toUpperCase() : letter)).join("");
  return toFileName(name) === fileName ? name : undefined;
}

function isCapital(letter: string): boolean {
  return letter >= "A" && letter <= "Z";
}
