/** @file Where one writes: Enter sends, Shift+Enter breaks the line. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { AnswerOptions } from "../api/client.js";

/** What a composer does. */
export interface ComposerProps {
  /** Changes when what one does next is write, so that the field takes a focus that was lost. */
  focusKey: string;
  busy: boolean;
  options: AnswerOptions;
  onOptions: (options: Partial<AnswerOptions>) => void;
  onSend: (text: string) => void;
  onRemember: (text: string) => void;
  onStop: () => void;
}

/** The composer. */
export function Composer({ focusKey, busy, options, onOptions, onSend, onRemember, onStop }: ComposerProps) {
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const area = field.current;
    if (area === null) return;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, 200)}px`;
  }, [text]);
  useEffect(() => {
    // Where there is no keyboard, a focus would bring one up on the screen.
    if (document.activeElement === document.body && matchMedia("(pointer: fine)").matches) field.current?.focus();
  }, [focusKey]);
  const give = (take: (text: string) => void): void => {
    const given = text.trim();
    if (given === "" || busy) return;
    setText("");
    take(given);
    field.current?.focus();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        give(onSend);
      }}
    >
      <textarea
        ref={field}
        id="message"
        rows={1}
        aria-label="Message"
        placeholder="Write a message"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          give(onSend);
        }}
      />
      <div class="composer-row">
        <Options options={options} onOptions={onOptions} />
        <span class="spread" />
        <button
          type="button"
          class="plain"
          disabled={busy || text.trim() === ""}
          title="Take this into the memory without an answer"
          onClick={() => give(onRemember)}
        >
          Remember only
        </button>
        {busy ? (
          <button type="button" class="main" onClick={onStop}>
            Stop
          </button>
        ) : (
          <button type="submit" class="main" disabled={text.trim() === ""}>
            Send
          </button>
        )}
      </div>
    </form>
  );
}

function Options({ options, onOptions }: Pick<ComposerProps, "options" | "onOptions">) {
  return (
    <details class="options">
      <summary>Options</summary>
      <div class="options-body">
        <label>
          Longest answer
          <input
            type="number"
            min={1}
            max={4096}
            value={options.maxTokens}
            onChange={(event) => {
              const maxTokens = Math.round(event.currentTarget.valueAsNumber);
              if (maxTokens >= 1) onOptions({ maxTokens });
            }}
          />
          tokens
        </label>
        <label>
          Temperature
          <input
            type="number"
            min={0}
            max={2}
            step={0.1}
            value={options.temperature}
            onChange={(event) => {
              const temperature = event.currentTarget.valueAsNumber;
              if (temperature >= 0) onOptions({ temperature });
            }}
          />
        </label>
      </div>
    </details>
  );
}
