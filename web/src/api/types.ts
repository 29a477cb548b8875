/** @file What the server answers, as far as the page reads it. */

/** What a memory holds, beside a full cache. */
export interface MemoryUsage {
  method: string;
  steps: number;
  tokens_seen: number;
  slots: number;
  bytes: number;
  full_cache_bytes: number;
  ratio: number;
}

/** A session. */
export interface SessionView {
  id: string;
  created_at: number;
  last_used_at: number;
  model: string;
  method: string | null;
  adapter: string | null;
  options: Record<string, string | number | boolean>;
  parent: string | null;
  metadata: Record<string, string>;
  step: number;
  memory: MemoryUsage;
  checkpoints: { step: number; tokens_seen: number; bytes: number; created_at: number }[];
}

/** A model. */
export interface ModelView {
  id: string;
  precis: {
    family: string;
    dtype: string;
    device: string;
    max_positions: number;
    bytes_per_slot: number;
    adapters: { name: string; method: string | null }[];
    default_memory: { method: string | null; adapter: string | null; options: Record<string, unknown> };
    methods: { name: string; needs_adapter: boolean }[];
  };
}

/** A slot: first and last step that wrote it, first and end token that it stands for; null where that is not known. */
export interface Slot {
  kind: "text" | "sink" | "memory" | "span";
  position: number;
  steps: [first: number, last: number] | null;
  tokens: [first: number, end: number] | null;
}

/** What a session holds. */
export interface SessionMemory {
  step: number;
  layers: number;
  memory: MemoryUsage;
  slots: Slot[];
}

/** How much attention a turn paid to the slots that there were before it: per layer, per slot. */
export interface Attention {
  step: number;
  tokens: number;
  slots: Slot[];
  layers: number[][];
  own: number[];
}

/** A message. */
export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** Which memory a new session gets; the server's default if empty. */
export interface MemoryChoice {
  method?: string;
  options?: Record<string, number>;
}
