/** @file Examples of a task to learn from and a question, with the labels made unknown in a share of the draws. */
import type { SeededRandom } from "../random.js";
import type { Demonstration, TaskRecord } from "../records.js";
import type { Question } from "./demonstrations.js";
import { labelFrequencies, labelNames } from "./label-words.js";
import type { Material } from "./material.js";

/** Demonstrations of one task and a question. */
export interface TaskExamples {
  id: string;
  demonstrations: Demonstration[];
  question: Question;
  /** Whether only a demonstration with the question's label makes an answer possible. */
  mustBeShown: boolean;
}

/** Most labels in an episode of a task whose labels are chosen. */
const MOST_LABELS = 8;

/** Share of draws with the task's own labels in which only some of them occur. */
const FEW_LABELS = 0.5;

const labelsOfTasks = new WeakMap<readonly TaskRecord[], ReadonlyMap<string, readonly TaskRecord[]> | undefined>();

/** The records of each label, or undefined for a task whose records do not share their options. */
function recordsByLabel(records: readonly TaskRecord[]): ReadonlyMap<string, readonly TaskRecord[]> | undefined {
  if (labelsOfTasks.has(records)) return labelsOfTasks.get(records);
  const options = records[0]?.options ?? [];
  const key = options.join("\u0000");
  let groups: Map<string, TaskRecord[]> | undefined;
  if (options.length > 1 && records.every((record) => record.options.join("\u0000") === key)) {
    groups = new Map();
    for (const record of records) {
      const group = groups.get(record.output);
      if (group === undefined) groups.set(record.output, [record]);
      else group.push(record);
    }
  }
  labelsOfTasks.set(records, groups);
  return groups;
}

/**
 * `count` demonstrations and a question, all different. Tasks with fixed labels are shown with all of them as they
 * come, or with a few, often unequally frequent; and in a share of the draws labels are replaced by random words, which forces the
 * answer to come from the demonstrations.
 * @param material what words are drawn from beside the familiar ones; see `labelNames`
 * @returns undefined if the task has too few examples
 */
export function drawTaskExamples(
  records: readonly TaskRecord[],
  count: number,
  randomLabels: number,
  material: readonly Material[],
  random: SeededRandom,
): TaskExamples | undefined {
  const groups = recordsByLabel(records);
  const renamed = random.chance(randomLabels);
  const few = random.chance(FEW_LABELS);
  if (groups === undefined || groups.size < 2 || !(renamed || few)) {
    const [question, ...demonstrations] = random.sample(records, count + 1);
    if (question === undefined || demonstrations.length < count) return undefined;
    return { id: question.id, demonstrations, question, mustBeShown: false };
  }
  const labels = random.sample([...groups.keys()], random.between(2, Math.min(MOST_LABELS, groups.size)));
  const names = renamed ? labelNames(labels.length, material, random) : labels;
  const words = new Map(labels.map((label, index) => [label, names[index]]));
  const naming = (label: string): string => words.get(label) ?? label;
  const renaming = ({ input, output }: Demonstration): Demonstration => ({ input, output: naming(output) });
  const shares = labelFrequencies(labels.length, random);
  const draw = (): string => labels[random.weighted(shares)] as string;
  const question = random.pick(groups.get(draw()) ?? []);
  const taken = new Set([question]);
  const drawn: TaskRecord[] = [];
  for (let index = 0; index < count; index++) {
    // The first one shows the question's label, and is shuffled in below.
    const label = index === 0 ? question.output : draw();
    const free = (groups.get(label) ?? []).filter((record) => !taken.has(record));
    if (free.length === 0) return undefined;
    const record = random.pick(free);
    taken.add(record);
    drawn.push(record);
  }
  return {
    id: question.id,
    demonstrations: random.shuffle(drawn).map(renaming),
    question: { ...renaming(question), options: labels.map(naming) },
    mustBeShown: true,
  };
}
