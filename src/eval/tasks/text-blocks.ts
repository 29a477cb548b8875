/** @file Blocks of held-out prose, cut as training cuts text. */
import type { Episode } from "../../data/episode.js";
import { SeededRandom } from "../../data/random.js";
import type { TextRecord } from "../../data/records.js";
import { textBlock } from "../../data/settings/stream.js";
import { listSources, loadSource, type Source } from "../../data/sources.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { throwIfAborted } from "../../weights/files.js";

/** A block of text. */
export interface ProseBlock extends Pick<Episode, "id" | "source"> {
  /** The beginning-of-text token comes first. */
  ids: readonly number[];
  /** Where words begin. */
  wordStarts: readonly number[];
}

/** What blocks are cut from. */
export interface BlockOptions {
  dataDir: string;
  /** Tokens of a block. */
  tokens: number;
  /** Blocks of each source. */
  limit: number;
  seed: number;
  only?: readonly string[] | undefined;
  signal?: AbortSignal | undefined;
}

/** Draws tried for one block, since short texts have none. */
const MOST_DRAWS = 100;

/** Code between lines of backquotes. */
const FENCED = /^[ \t]*```[\s\S]*?(?:^[ \t]*```[^\n]*$|$(?![\s\S]))/gmu;

/** A text without its code: fenced lines, and paragraphs that are set in from the margin. */
export function proseOf(text: string): string {
  const paragraphs = text.replace(FENCED, "").split(/\n[ \t]*\n/u);
  return paragraphs.filter((paragraph) => /^\S/u.test(paragraph)).join("\n\n");
}

/**
 * Blocks from random places of texts that adapters are not trained on: a source's test part or, of sources without one,
 * what training holds back as its dev part. Texts take turns. Sources without held-out prose are left out.
 */
export async function readBlocks(tokenizer: Tokenizer, options: BlockOptions): Promise<ProseBlock[]> {
  const { dataDir, only, signal } = options;
  const blocks: ProseBlock[] = [];
  for (const source of await listSources(dataDir, { includeResearchOnly: true, only })) {
    throwIfAborted(signal, "The evaluation");
    if (source.setting === "stream") blocks.push(...(await blocksOf(tokenizer, source as Source<"stream">, options)));
  }
  return blocks;
}

async function blocksOf(
  tokenizer: Tokenizer,
  source: Source<"stream">,
  { tokens, limit, seed }: BlockOptions,
): Promise<ProseBlock[]> {
  const test = (await loadSource(source, "test")).records;
  const records = test.length > 0 ? test : (await loadSource(source, "dev")).records;
  const random = new SeededRandom(seed, "blocks", source.name);
  const texts = random.shuffle(records).map((record): TextRecord => ({ ...record, text: proseOf(record.text) }));
  const blocks = new Map<string, ProseBlock>();
  for (let draw = 0; blocks.size < limit && draw < limit + MOST_DRAWS && texts.length > 0; draw++) {
    const record = texts[draw % texts.length] as TextRecord;
    const episode = textBlock(tokenizer, record, source.name, tokens, random);
    if (episode === undefined) continue;
    const { id, input, target, wordStarts = [] } = episode;
    blocks.set(id, { id, source: source.name, ids: [...input, ...target], wordStarts });
  }
  return [...blocks.values()];
}
