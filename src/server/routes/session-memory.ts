/** @file What a session's memory holds, slot by slot, and which of it a turn looks at. */
import type { MemorySlot } from "../../index.js";
import { checked, clientSignal, readBody, type Request, type Services } from "../context.js";
import { toMessages } from "../messages.js";
import { attentionRequest, sessionMemoryQuery } from "../schemas/sessions.js";
import { countTokens } from "../turns.js";
import { memoryUsage } from "../usage.js";
import { named } from "./sessions.js";

/** A slot as the API shows it: kind, position, `[first, last]` step and `[first, end)` token. */
function slotView({ kind, position, origin }: MemorySlot): object {
  return {
    kind,
    position,
    steps: origin === undefined ? null : [origin.firstStep, origin.lastStep],
    tokens: origin === undefined ? null : [origin.firstToken, origin.endToken],
  };
}

/** Shares to a millionth: more digits would only be longer. */
function rounded(shares: Iterable<number>): number[] {
  return Array.from(shares, (share) => Math.round(share * 1e6) / 1e6);
}

/** Shows the slots of a session, as it is or as it was at an earlier step. */
export async function sessionMemory(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  const { step } = checked(c.req.query(), sessionMemoryQuery);
  const { signal } = clientSignal(c);
  return services.sessions.look(session, step, { bytes: 0, signal }, async (memory) => {
    const stats = await memory.stats();
    return c.json({
      id: session.id,
      object: "session.memory",
      step: stats.steps,
      layers: session.served.model.info.layerCount,
      memory: memoryUsage(stats),
      slots: (await memory.slots()).map(slotView),
    });
  });
}

/** Shows how much attention messages, or the answer to them, pay to the slots of a session. */
export async function sessionAttention(c: Request, services: Services): Promise<Response> {
  const session = await named(c, services);
  const { messages: params, answer, step } = await readBody(c, attentionRequest);
  const { signal } = clientSignal(c);
  const messages = toMessages(params, "messages");
  const { bytesPerSlot } = session.served.model.info;
  const tokens = await countTokens(session.served, [...messages, { role: "assistant", content: answer ?? "" }], "");
  const use = { bytes: session.stats.bytes + tokens * bytesPerSlot, signal };
  return services.sessions.look(session, step, use, async (memory, combined) => {
    const { steps } = await memory.stats();
    const paid = await memory.attention(messages, { answer, signal: combined });
    return c.json({
      id: session.id,
      object: "session.attention",
      step: steps,
      tokens: paid.tokens,
      slots: paid.slots.map(slotView),
      layers: paid.layers.map(rounded),
      own: rounded(paid.own),
    });
  });
}
