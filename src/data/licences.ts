/**
 * @file Which sources may only be used for research: their licence is non-commercial or for academic use. Weights that
 * are published must not be trained on them.
 */

/** Sources whose records do not carry their licence, by name, with what the licence says. */
const RESEARCH_ONLY: Readonly<Record<string, string>> = {
  dailydialog: "CC BY-NC-SA 4.0",
  deal_or_no_deal: "CC BY-NC 4.0",
  empathetic_dialogues: "CC BY-NC 4.0",
  esconv: "CC BY-NC 4.0, academic research use only",
  movielens_like: "GroupLens: no commercial use",
  movielens_rating: "GroupLens: no commercial use",
  ag_news: "non-commercial research",
  brown_genre: "non-commercial (Brown Corpus)",
  dd_act: "CC BY-NC-SA 4.0",
  dd_emotion: "CC BY-NC-SA 4.0",
  dd_topic: "CC BY-NC-SA 4.0",
  nps_chat_act: "research, non-commercial (NPS)",
  sick_nli: "CC BY-NC-SA 3.0",
};

const RESTRICTION = /\bNC\b|non-?commercial|no commercial|academic/i;

/** Whether a source may only be used for research, by its name or, where known, its licence. */
export function isResearchOnly(source: string, licence = ""): boolean {
  return Object.hasOwn(RESEARCH_ONLY, source) || RESTRICTION.test(licence);
}
