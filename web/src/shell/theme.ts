/** @file Light and dark: the system's choice, unless one was made here. */
import { useEffect, useState } from "preact/hooks";

/** What can be chosen. */
export type ThemeChoice = "system" | "light" | "dark";

const STORED = "precis.theme";

function readChoice(): ThemeChoice {
  const stored = localStorage.getItem(STORED);
  return stored === "light" || stored === "dark" ? stored : "system";
}

/** The choice, the theme that follows from it, and how to choose. */
export function useTheme(): { choice: ThemeChoice; theme: "light" | "dark"; choose: (choice: ThemeChoice) => void } {
  const [choice, setChoice] = useState(readChoice);
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [systemDark, setSystemDark] = useState(query.matches);
  useEffect(() => {
    const follow = (): void => setSystemDark(query.matches);
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  }, []);
  const theme = choice === "system" ? (systemDark ? "dark" : "light") : choice;
  // Set before children paint with its colours.
  document.documentElement.dataset["theme"] = theme;
  const choose = (next: ThemeChoice): void => {
    if (next === "system") localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, next);
    setChoice(next);
  };
  return { choice, theme, choose };
}
