/** @file Tokens fed to a memory bit by bit. */
import type { Memory } from "#precis/index.js";

/** Feeds ids in pieces of these lengths, by turns as context and as input; @returns the logits of every token. */
export async function logitsInPieces(
  memory: Memory,
  ids: readonly number[],
  lengths: readonly number[],
): Promise<number[]> {
  const result: number[] = [];
  for (let start = 0, turn = 0; start < ids.length; turn++) {
    const piece = ids.slice(start, start + lengths[turn % lengths.length]);
    result.push(...(await memory.forward(piece)).logits);
    if (turn % 2 === 0) await memory.append(piece);
    else await memory.score(piece);
    start += piece.length;
  }
  return result;
}
