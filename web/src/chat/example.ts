/** @file A short conversation to fill a memory with, and questions about it. */
import type { Message } from "../api/types.js";

/** What is remembered. */
export const EXAMPLE: readonly Message[] = [
  { role: "user", content: "Hi, my name is Maya. I just moved to Oakland and I am planning a weekend with my family." },
  { role: "assistant", content: "Hi Maya, welcome to Oakland! Who is coming?" },
  { role: "user", content: "My sister Clara and my brother Leo are coming on Friday. It is Clara's birthday." },
  { role: "assistant", content: "That sounds lovely. Would you like to start with a restaurant?" },
  { role: "user", content: "Yes, please. Clara loves Italian food, and I am allergic to peanuts." },
  { role: "assistant", content: "I found an Italian restaurant in Oakland. Shall I book a table?" },
];

/** Things to ask afterwards, or at first. */
export const QUESTIONS: readonly string[] = [
  "Yes, please book a table for three people at 7 pm.",
  "What else could we do on Saturday?",
];
