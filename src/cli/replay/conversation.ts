/** @file The conversation that `precis replay` replays, and the tokens of its answers. */
import { fileURLToPath } from "node:url";
import { PrecisError } from "../../errors.js";
import { ChatTemplate, type ChatMessage } from "../../text/chat-template.js";
import { Tokenizer } from "../../text/tokenizer.js";
import { isRecord } from "../../weights/files.js";
import { checkMessages, findMessages, invalidContent, readJson, splitQuestion } from "../conversation-file.js";

/** The conversation that comes with the package. */
export const EXAMPLE_CONVERSATION: string = fileURLToPath(
  new URL("../../../examples/long-conversation.json", import.meta.url),
);

/** Something to ask at the end. */
export interface Question {
  ask: string;
  /** The right answer, if it is known. */
  expect?: string;
  /** Where in the conversation it was said. */
  said?: string;
}

/** A conversation to replay. */
export interface Conversation {
  title: string;
  messages: ChatMessage[];
  questions: Question[];
}

const NEXT_STEP =
  'Give JSON: messages like [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}], or {"messages": […], "questions": [{"ask": "…"}]}.';

/**
 * Reads a conversation. Without `questions`, a last message by the user is what is asked at the end.
 * @throws FILE_NOT_FOUND, FILE_INVALID
 */
export async function readConversation(file: string): Promise<Conversation> {
  const expected = { file, nextStep: NEXT_STEP };
  const json = await readJson(expected);
  const messages = checkMessages(findMessages(json) ?? [], expected);
  const { context, question } = splitQuestion(messages);
  if (!context.some(({ role }) => role === "assistant")) {
    throw invalidContent(expected, "holds no message by the assistant to predict");
  }
  const { title, questions } = isRecord(json) ? json : {};
  const named = typeof title === "string" ? title : file;
  if (questions === undefined) {
    return { title: named, messages: context, questions: question === undefined ? [] : [{ ask: question.content }] };
  }
  if (!Array.isArray(questions) || !questions.every((item) => isRecord(item) && typeof item.ask === "string")) {
    throw invalidContent(expected, 'has "questions" that are not a list of {"ask": "…"}');
  }
  return { title: named, messages, questions: questions as Question[] };
}

/** A question and its answer as tokens: those from `scoredFrom` on are the assistant's own. */
export interface AnswerTokens {
  ids: number[];
  scoredFrom: number;
}

/** Tokenizes answers as a memory does that is given the same messages. */
export class AnswerTokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #template: ChatTemplate;

  private constructor(tokenizer: Tokenizer, template: ChatTemplate) {
    this.#tokenizer = tokenizer;
    this.#template = template;
  }

  /** @throws TEMPLATE_FAILED if the model is none for chatting */
  static async load(modelDirectory: string): Promise<AnswerTokenizer> {
    const tokenizer = await Tokenizer.load(modelDirectory);
    const template = await ChatTemplate.load(modelDirectory, tokenizer);
    if (template !== undefined) return new AnswerTokenizer(tokenizer, template);
    throw new PrecisError("TEMPLATE_FAILED", `The model in ${modelDirectory} has no chat template.`, {
      nextStep: "Choose a chat model, or use `precis inspect --nll` with token ids.",
    });
  }

  /** The tokens of an answer and of the messages that it answers, which follow `previous`. */
  tokens(answer: ChatMessage, asked: readonly ChatMessage[], previous: readonly ChatMessage[]): AnswerTokens {
    const before = this.#shielded(previous);
    const encode = (text: string): number[] => this.#tokenizer.encode(text, { addSpecialTokens: false });
    const question = this.#shielded(asked);
    const opening = encode(this.#template.renderTurn(question, before, { addGenerationPrompt: true })).length;
    const ids = encode(this.#template.renderTurn([...question, ...this.#shielded([answer])], before));
    // The first token has nothing before it in its pass, so that no logits predict it.
    return { ids, scoredFrom: Math.max(1, opening) };
  }

  /** Messages whose text cannot pass for the template's own control tokens. */
  #shielded(messages: readonly ChatMessage[]): ChatMessage[] {
    return messages.map((message) => ({ ...message, content: this.#tokenizer.shield(message.content) }));
  }
}
