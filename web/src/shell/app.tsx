/** @file The page: its head, what goes wrong, and the two views. */
import { useEffect } from "preact/hooks";
import { ChatView } from "../chat/chat-view.js";
import { CompareView } from "../compare/compare-view.js";
import { useObserved } from "../state/observable.js";
import type { Failure, Playground } from "../state/playground.js";
import { KeyForm } from "./key-form.js";
import { useTheme, type ThemeChoice } from "./theme.js";

const THEMES: Record<ThemeChoice, { next: ThemeChoice; label: string }> = {
  system: { next: "light", label: "Theme: system" },
  light: { next: "dark", label: "Theme: light" },
  dark: { next: "system", label: "Theme: dark" },
};

/** The application. */
export function App({ playground }: { playground: Playground }) {
  useObserved(playground);
  const { choice, theme, choose } = useTheme();
  useEffect(() => {
    const follow = (): void => void playground.follow(location.hash);
    addEventListener("hashchange", follow);
    void playground.connect();
    return () => removeEventListener("hashchange", follow);
  }, [playground]);
  const { connection, mode, model, notice, current } = playground;
  const ready = connection.status === "ready";
  const chatHash = current === undefined ? "#new" : `#s/${current.id}`;
  return (
    <>
      {ready && (
        <a
          class="skip"
          href="#message"
          onClick={(event) => {
            // The address names a session, and must stay.
            event.preventDefault();
            document.getElementById("message")?.focus();
          }}
        >
          To the message field
        </a>
      )}
      <header class="top">
        <span class="brand">Precis</span>
        {ready && (
          <nav class="segmented" aria-label="Views">
            <a href={chatHash} aria-current={mode === "chat" ? "page" : undefined}>
              Chat
            </a>
            <a href="#compare" aria-current={mode === "compare" ? "page" : undefined}>
              Compare
            </a>
          </nav>
        )}
        <span class="spread" />
        {model !== undefined && (
          <span class="quiet model">
            {model.id} · {model.precis.dtype}
          </span>
        )}
        <button type="button" class="link" onClick={() => choose(THEMES[choice].next)}>
          {THEMES[choice].label}
        </button>
      </header>
      {notice !== undefined && <Notice failure={notice} onDismiss={() => playground.dismiss()} />}
      {connection.status === "loading" && <p class="center quiet">Asking the server…</p>}
      {connection.status === "key-needed" && (
        <KeyForm wrong={connection.wrong} onKey={(key) => void playground.useKey(key)} />
      )}
      {connection.status === "failed" && (
        <div class="center">
          <h1>The server does not answer as it should</h1>
          <p>
            {connection.message} {connection.nextStep}
          </p>
          <button type="button" class="main" onClick={() => void playground.connect()}>
            Try again
          </button>
        </div>
      )}
      {ready && mode === "chat" && <ChatView playground={playground} theme={theme} />}
      {ready && mode === "compare" && <CompareView playground={playground} theme={theme} />}
    </>
  );
}

function Notice({ failure, onDismiss }: { failure: Failure; onDismiss: () => void }) {
  return (
    <div class="notice alert" role="alert">
      <span>
        {failure.message} {failure.nextStep}
      </span>
      <button type="button" class="link" onClick={onDismiss}>
        Dismiss
      </button>
    </div>
  );
}
