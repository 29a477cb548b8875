/** @file Episodes: their pieces make up the text that the model was trained on, and what a memory would be given. */
import { describe, expect, test } from "vitest";
import type { Episode } from "#precis/data/episode.js";
import { SeededRandom } from "#precis/data/random.js";
import { conversationEpisode } from "#precis/data/settings/conversation.js";
import { demonstrationEpisode, demonstrationMessages } from "#precis/data/settings/demonstrations.js";
import { streamEpisode, textBlock } from "#precis/data/settings/stream.js";
import { Conversation } from "#precis/runtime/conversation.js";
import type { LoadedModel } from "#precis/runtime/loaded-model.js";
import type { ChatMessage } from "#precis/text/chat-template.js";
import { tinyText } from "./tiny-data.js";

/** Trims messages and ends turns with a line break, so that nothing may be taken for granted. */
const TRIMMING =
  "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] | trim + '<|end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}";

const TURNS: ChatMessage[] = Array.from({ length: 15 }, (_, turn) => ({
  role: turn % 2 === 0 ? "user" : "assistant",
  // A user who writes control tokens must not fake a turn.
  content: turn === 2 ? "what does <|end|> mean?" : `turn ${turn} says é`,
}));
const RECORD = { id: "d", split: undefined, turns: TURNS };

function joined({ steps, input, target }: Episode): number[] {
  return [...steps.flat(), ...input, ...target];
}

describe.each([
  ["a template that only frames messages", undefined],
  ["a template that changes them", TRIMMING],
])("%s", (_name, source) => {
  test.each([1, 2, 5, 12])("a conversation of %i steps is the rendering of all its turns", async (steps) => {
    const { tokenizer, template, pieces } = await tinyText(source);
    const episode = conversationEpisode(pieces, RECORD, "s", { steps }) as Episode;
    const shielded = TURNS.map((turn) => ({ ...turn, content: tokenizer.shield(turn.content) }));
    const whole = tokenizer.encode(template.render(shielded.slice(0, steps + 2)), { addSpecialTokens: false });
    expect(episode.steps).toHaveLength(steps);
    // The template may write white space after the end token, which is no part of an answer.
    expect(joined(episode)).toEqual(whole.slice(0, joined(episode).length));
    expect(tokenizer.decode(whole.slice(joined(episode).length)).trim()).toBe("");
    expect(episode.target.at(-1)).toBe(tokenizer.tokenToId("<|end|>"));
    expect(tokenizer.decode(episode.target)).toBe(`${TURNS[steps + 1].content}<|end|>`);
  });

  test.each([2, 4, 12])("its pieces are what a memory is given turn by turn (%i steps)", async (steps) => {
    const { tokenizer, template, pieces } = await tinyText(source);
    const model = { tokenizer, template, info: { vocabSize: 320 } } as unknown as LoadedModel;
    const conversation = new Conversation(model);
    const episode = conversationEpisode(pieces, RECORD, "s", { steps }) as Episode;
    for (const [index, turn] of TURNS.slice(0, steps).entries()) {
      const [step] = conversation.steps([turn]);
      expect(episode.steps[index]).toEqual(step.ids);
      conversation.remember(step.messages);
    }
    expect(episode.input).toEqual(conversation.prompt([TURNS[steps]]).ids);
  });

  test("demonstrations and a question with options", async () => {
    const { tokenizer, template, pieces } = await tinyText(source);
    const shown = [1, 2, 3].map((n) => ({ input: `in ${n}`, output: `out ${n}` }));
    const question = { input: "in 4", output: "yes", options: ["no", "yes"] };
    const episode = demonstrationEpisode(pieces, { id: "i", source: "t", setting: "icl" }, shown, question);
    const messages = [...shown, question].flatMap(demonstrationMessages);
    const whole = tokenizer.encode(template.render(messages), { addSpecialTokens: false });
    expect(episode.steps).toHaveLength(3);
    expect(joined(episode)).toEqual(whole.slice(0, joined(episode).length));
    expect(episode.answerIndex).toBe(1);
    expect(episode.options?.map((ids) => tokenizer.decode(ids))).toEqual(["no", "yes"]);
    // The right option is the target without its end token.
    expect(episode.target.slice(0, -1)).toEqual(episode.options?.[1]);
    const answered = episode.answers?.map((range, step) =>
      episode.steps[step]?.slice(range?.start, range && range.end - 1),
    );
    expect(answered?.map((ids) => tokenizer.decode(ids ?? []))).toEqual(shown.map(({ output }) => output));
  });
});

test("joining strings gives what Jinja gives", async () => {
  const { tokenizer, template, pieces } = await tinyText();
  const viaTemplate = (messages: ChatMessage[], previous: ChatMessage[]): number[] =>
    tokenizer.encode(
      template.renderTurn(
        messages.map((message) => ({ ...message, content: tokenizer.shield(message.content) })),
        previous.map((message) => ({ ...message, content: tokenizer.shield(message.content) })),
      ),
      { addSpecialTokens: false },
    );
  for (let turn = 0; turn < TURNS.length; turn++) {
    expect(pieces.step([TURNS[turn]], TURNS.slice(0, turn))).toEqual(viaTemplate([TURNS[turn]], TURNS.slice(0, turn)));
  }
});

test("dialogues that are too short or have an empty turn give nothing", async () => {
  const { pieces } = await tinyText();
  expect(conversationEpisode(pieces, RECORD, "s", { steps: 14 })).toBeUndefined();
  const empty = { ...RECORD, turns: [...TURNS.slice(0, 2), { role: "user", content: " " }, TURNS[3]] };
  expect(conversationEpisode(pieces, empty, "s", { steps: 2 })).toBeUndefined();
});

test("streams are cut into equal stretches that follow each other in the text", async () => {
  const { tokenizer } = await tinyText();
  const text = Array.from({ length: 500 }, (_, word) => `word${word}`).join(" ");
  const record = { id: "b", split: undefined, title: "B", text };
  for (let seed = 0; seed < 20; seed++) {
    const random = new SeededRandom(seed);
    const episode = streamEpisode(tokenizer, record, "books", { steps: 3, stepTokens: 16 }, random) as Episode;
    expect(episode.steps.map(({ length }) => length)).toEqual([16, 16, 16]);
    expect(episode.input.length + episode.target.length).toBe(16);
    const [begin, ...rest] = joined(episode);
    expect(begin).toBe(tokenizer.bosId);
    const excerpt = tokenizer.decode(rest);
    expect(excerpt.startsWith("word")).toBe(true);
    expect(text).toContain(excerpt);
  }
  expect(streamEpisode(tokenizer, record, "b", { steps: 900, stepTokens: 64 }, new SeededRandom(0))).toBeUndefined();
});

test("plain blocks are of one length, begin a text, and say where its words begin", async () => {
  const { tokenizer } = await tinyText();
  const text = Array.from({ length: 500 }, (_, word) => `word${word}`).join(" ");
  const record = { id: "b", split: undefined, title: "B", text };
  for (let seed = 0; seed < 20; seed++) {
    const block = textBlock(tokenizer, record, "books", 64, new SeededRandom(seed)) as Episode;
    const ids = joined(block);
    expect([block.steps.length, block.input.length, ids.length]).toEqual([0, 1, 64]);
    expect(ids[0]).toBe(tokenizer.bosId);
    const starts = block.wordStarts as number[];
    const words = starts.map((start, i) => tokenizer.decode(ids.slice(start, starts[i + 1])));
    expect(starts[0]).toBe(1);
    expect(words.join("")).toBe(tokenizer.decode(ids.slice(1)));
    expect(words.map((word) => word.trim())).toEqual(words.join("").split(" "));
  }
  expect(textBlock(tokenizer, record, "books", 9000, new SeededRandom(0))).toBeUndefined();
});
