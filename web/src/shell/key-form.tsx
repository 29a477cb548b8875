/** @file Asks for an API key, where the server wants one. */
import { useState } from "preact/hooks";

/** The form. */
export function KeyForm({ wrong, onKey }: { wrong: boolean; onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  return (
    <form
      class="center key-form"
      onSubmit={(event) => {
        event.preventDefault();
        if (key.trim() !== "") onKey(key.trim());
      }}
    >
      <h1>This server needs an API key</h1>
      <label>
        API key
        <input
          type="password"
          autocomplete="off"
          value={key}
          aria-invalid={wrong}
          aria-describedby="key-note"
          onInput={(event) => setKey(event.currentTarget.value)}
        />
      </label>
      {wrong && (
        <p class="alert" role="alert">
          The server does not know this key.
        </p>
      )}
      <p class="quiet" id="key-note">
        It stays in this tab, and goes when you close it.
      </p>
      <button type="submit" class="main" disabled={key.trim() === ""}>
        Continue
      </button>
    </form>
  );
}
