/** @file Conversation: perplexity of the next turn, given the memory of the turns so far and the latest turn. */
import { SeededRandom } from "../../data/random.js";
import type { DialogueRecord } from "../../data/records.js";
import { conversationEpisode } from "../../data/settings/conversation.js";
import { listSources, loadSource, type Source } from "../../data/sources.js";
import { throwIfAborted } from "../../weights/files.js";
import type { EvaluationCase } from "../case.js";
import { MAX_STEP_TOKENS, type CaseOptions, type CaseTask } from "./task.js";

/**
 * At time step t, t turns are in memory, the next one is the question, and the one after that is scored without its end
 * token. Every dialogue is long enough for the last step, so that all steps are measured on the same ones.
 */
export const conversationTask: CaseTask = {
  name: "conversation",
  setting: "conversation",
  defaultSteps: [1, 2, 4, 8, 12],
  defaultLimit: 20,
  primary: "perplexity",
  shuffleAcrossStrata: false,
  async buildCases(options) {
    const cases: EvaluationCase[] = [];
    for (const source of await listSources(options.dataDir, { includeResearchOnly: true, only: options.only })) {
      throwIfAborted(options.signal, "The evaluation");
      if (source.setting !== "conversation") continue;
      const records = await heldOutRecords(source as Source<"conversation">);
      const shuffled = new SeededRandom(options.seed, "evaluation", source.name).shuffle(records);
      let taken = 0;
      for (const record of shuffled) {
        if (taken === options.limit) break;
        const made = caseOf(record, source.name, options);
        if (made === undefined) continue;
        cases.push(made);
        taken++;
      }
    }
    return cases;
  },
};

/** The test part or, of sources without one, the official development part. */
async function heldOutRecords(source: Source<"conversation">): Promise<readonly DialogueRecord[]> {
  const { records } = await loadSource(source, "test");
  if (records.length > 0) return records;
  return (await loadSource(source, "dev")).records.filter(({ split }) => split === "dev");
}

function caseOf(
  record: DialogueRecord,
  source: string,
  { pieces, steps, maxPositions }: CaseOptions,
): EvaluationCase | undefined {
  const last = Math.max(...steps);
  if (record.turns.length < last + 2) return undefined;
  const episodes = steps.map((step) => conversationEpisode(pieces, record, source, { steps: step }));
  const longest = episodes.at(-1);
  if (longest === undefined) return undefined;
  const pieceLengths = [...longest.steps, longest.input, longest.target].map((piece) => piece.length);
  const length = pieceLengths.reduce((sum, piece) => sum + piece, 0);
  if (length > maxPositions || pieceLengths.some((piece) => piece > MAX_STEP_TOKENS)) return undefined;
  const id = `${source}/${record.id}`;
  const probes = episodes.flatMap((episode, index) =>
    episode === undefined
      ? []
      : [
          {
            step: steps[index] as number,
            questions: [{ input: episode.input, target: withoutEnd(episode.target, pieces.tokenizer.specialIds) }],
          },
        ],
  );
  return { id, stratum: source, cluster: id, steps: longest.steps, probes };
}

/** End tokens are nearly certain after a whole turn and would flatter every method. */
export function withoutEnd(target: readonly number[], specialIds: ReadonlySet<number>): readonly number[] {
  const last = target.at(-1);
  return last !== undefined && specialIds.has(last) ? target.slice(0, -1) : target;
}
