/** @file A page of which parts are generated: what stands between two markers is replaced, and everything else stays. */

/** A page with the parts that it has places for. */
export interface FilledPage {
  text: string;
  /** Names of parts that the page has no place for. */
  unplaced: string[];
}

/**
 * Puts each part between `<!-- results: NAME -->` and `<!-- end: NAME -->`, which stand alone in their lines.
 * @param parts text by name
 */
export function fillPage(text: string, parts: ReadonlyMap<string, string>): FilledPage {
  const unplaced: string[] = [];
  let page = text;
  for (const [name, part] of parts) {
    const [begin, end] = [`<!-- results: ${name} -->`, `<!-- end: ${name} -->`];
    const from = page.indexOf(begin);
    const to = page.indexOf(end, from);
    if (from < 0 || to < 0) unplaced.push(name);
    else page = `${page.slice(0, from + begin.length)}\n\n${part.trim()}\n\n${page.slice(to)}`;
  }
  return { text: page, unplaced };
}
