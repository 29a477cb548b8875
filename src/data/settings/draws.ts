/** @file One random training episode per setting. A draw that does not fit the limits gives nothing and is repeated. */
import type { ChatPieces } from "../chat-pieces.js";
import { episodeLength, type Episode, type Setting } from "../episode.js";
import type { SeededRandom } from "../random.js";
import type { RecordOf } from "../records.js";
import { conversationEpisode } from "./conversation.js";
import { demonstrationEpisode } from "./demonstrations.js";
import { inventTask } from "./invented-tasks.js";
import type { Material } from "./material.js";
import { userEntries } from "./profiles.js";
import { drawTaskExamples } from "./task-examples.js";
import { streamEpisode, textBlock } from "./stream.js";

/** What bounds an episode. */
export interface EpisodeLimits {
  /** Most tokens of steps, input and target. */
  maxTokens: number;
  minSteps: number;
  maxSteps: number;
  /** Episodes with a longer step are dropped. */
  maxStepTokens: number;
  /** Tokens of a step of a text. */
  streamStepTokens: number;
  /** Share of classification episodes whose labels are replaced by random words. */
  randomLabels: number;
  /** Share of the episodes of tasks whose task is invented; see `inventTask`. */
  inventedTasks: number;
}

/** What a draw works with. */
export interface DrawContext {
  pieces: ChatPieces;
  limits: EpisodeLimits;
  random: SeededRandom;
  /** Take texts as plain blocks of this many tokens, without steps. */
  blockTokens?: number | undefined;
  /** What tasks are invented from. */
  material: readonly Material[];
}

/** Makes an episode of a source's records, or nothing if the draw does not fit. */
export type Draw<Kind extends Setting> = (
  context: DrawContext,
  source: string,
  records: readonly RecordOf[Kind][],
) => Episode | undefined;

/** Characters that a token has at least, nearly always: what is longer is not worth tokenizing. */
const CHARACTERS_PER_TOKEN = 8;

/** The source of episodes whose task is invented. */
export const INVENTED = "invented";

function isTooLong({ maxTokens, maxStepTokens }: EpisodeLimits, episode: Episode): boolean {
  return episodeLength(episode) > maxTokens || episode.steps.some((step) => step.length > maxStepTokens);
}

/** The first turns of a dialogue or, half of the time, some from its middle; fewer if they are too long together. */
const drawConversation: Draw<"conversation"> = ({ pieces, limits, random }, source, records) => {
  const record = random.pick(records);
  const most = Math.min(limits.maxSteps, record.turns.length - 2);
  if (most < limits.minSteps) return undefined;
  let steps = random.between(limits.minSteps, most);
  const spare = Math.floor((record.turns.length - 2 - steps) / 2);
  const start = random.chance(0.5) ? 2 * random.between(0, spare) : 0;
  const turns = record.turns.slice(start, start + steps + 2);
  if (turns.some(({ content }) => content.length > limits.maxStepTokens * CHARACTERS_PER_TOKEN)) return undefined;
  for (;;) {
    const episode = conversationEpisode(pieces, record, source, { steps, start });
    if (episode === undefined || episode.steps.some((step) => step.length > limits.maxStepTokens)) return undefined;
    const length = episodeLength(episode);
    if (length <= limits.maxTokens) return episode;
    // Turns are of like length, so this comes close in one go.
    steps = Math.min(steps - 1, Math.floor((steps * limits.maxTokens) / length));
    if (steps < limits.minSteps) return undefined;
  }
};

/** Cuts the last steps off until the episode fits; answers stay possible, but know less. */
function fitted(limits: EpisodeLimits, episode: Episode): Episode | undefined {
  const rest = episode.input.length + episode.target.length;
  let length = rest;
  const kept = episode.steps.findIndex((step) => (length += step.length) > limits.maxTokens);
  const steps = kept < 0 ? episode.steps : episode.steps.slice(0, kept);
  const fits = steps.length >= limits.minSteps && !isTooLong(limits, { ...episode, steps });
  return fits ? { ...episode, steps } : undefined;
}

const drawTask: Draw<"icl"> = ({ pieces, limits, random, material }, name, records) => {
  const isInvented = limits.inventedTasks > 0 && random.chance(limits.inventedTasks);
  const source = isInvented ? INVENTED : name;
  const count = random.between(limits.minSteps, limits.maxSteps);
  const longest = limits.maxStepTokens * CHARACTERS_PER_TOKEN;
  const drawn = isInvented
    ? inventTask(material, count, random)
    : drawTaskExamples(records, count, limits.randomLabels, material, random);
  if (drawn === undefined || drawn.question.input.length > longest) return undefined;
  const demonstrations = drawn.demonstrations.filter(({ input }) => input.length <= longest);
  const about = { id: `${source}/${drawn.id}+${count}`, source, setting: "icl" as const };
  const episode = fitted(limits, demonstrationEpisode(pieces, about, demonstrations, drawn.question));
  if (episode === undefined || !drawn.mustBeShown) return episode;
  const shown = demonstrations.slice(0, episode.steps.length);
  return shown.some(({ output }) => output === drawn.question.output) ? episode : undefined;
};

/**
 * Entries about one user in random order: a profile with its question or, half of the time, any of all that the user's
 * records say, so that a profile is hardly ever seen twice.
 */
const drawProfile: Draw<"personal"> = ({ pieces, limits, random }, source, records) => {
  const record = random.pick(records);
  const isMixed = random.chance(0.5);
  const [asked, ...others] = isMixed
    ? random.sample(userEntries(records, record.user), limits.maxSteps + 1)
    : [record.query];
  const profile = isMixed ? others : random.shuffle(record.profile);
  const most = Math.min(limits.maxSteps, profile.length);
  if (asked === undefined || most < limits.minSteps) return undefined;
  const count = random.between(limits.minSteps, most);
  const about = { id: `${source}/${record.id}+${count}`, source, setting: "personal" as const };
  const question = { ...asked, options: isMixed ? [] : record.options };
  return fitted(limits, demonstrationEpisode(pieces, about, profile.slice(0, count), question));
};

/** A long text has more to show than a short one. */
function drawText(records: readonly RecordOf["stream"][], random: SeededRandom): RecordOf["stream"] {
  return records[random.weighted(records.map(({ text }) => text.length))] as RecordOf["stream"];
}

const drawStream: Draw<"stream"> = ({ pieces, limits, random, blockTokens }, source, records) => {
  if (blockTokens !== undefined) {
    return textBlock(pieces.tokenizer, drawText(records, random), source, blockTokens, random);
  }
  const stepTokens = Math.min(limits.streamStepTokens, limits.maxStepTokens);
  const most = Math.min(limits.maxSteps, Math.floor(limits.maxTokens / stepTokens) - 1);
  if (most < limits.minSteps) return undefined;
  const record = drawText(records, random);
  const steps = random.between(limits.minSteps, most);
  return streamEpisode(pieces.tokenizer, record, source, { steps, stepTokens }, random);
};

/** The draw of every setting. */
export const DRAWS: { readonly [Kind in Setting]: Draw<Kind> } = {
  conversation: drawConversation,
  icl: drawTask,
  personal: drawProfile,
  stream: drawStream,
};
