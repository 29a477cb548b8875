/** @file Conversations: a turn is a time step; the memory of the turns so far and the latest turn call for the next. */
import type { ChatPieces } from "../chat-pieces.js";
import type { Episode } from "../episode.js";
import type { DialogueRecord } from "../records.js";

/** Which part of a dialogue an episode is made of. */
export interface ConversationCut {
  /** Turns in memory, at least one. */
  steps: number;
  /** First turn; even, so that the user opens. Default 0. */
  start?: number;
}

/**
 * Turns `start` … as time steps, the turn after them as input, and the turn after that as the answer, which may be the
 * user's as well: then the input ends with the opening of the user's turn. Pieces are those of a memory that gets the
 * turns one at a time.
 * @returns undefined if there are too few turns, or an empty one
 */
export function conversationEpisode(
  pieces: ChatPieces,
  record: DialogueRecord,
  source: string,
  { steps, start = 0 }: ConversationCut,
): Episode | undefined {
  const turns = record.turns.slice(start, start + steps + 2);
  const [asked, answer] = turns.slice(steps);
  if (asked === undefined || answer === undefined || turns.some(({ content }) => content.trim() === "")) {
    return undefined;
  }
  const context = turns.slice(0, steps);
  return {
    id: `${source}/${record.id}@${start}+${steps}`,
    source,
    setting: "conversation",
    steps: context.map((turn, index) => pieces.step([turn], context.slice(0, index))),
    input: pieces.prompt([asked], context, answer.role),
    target: pieces.answer(answer.content, turns.slice(0, -1), answer.role),
  };
}
