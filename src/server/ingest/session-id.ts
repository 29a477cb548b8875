/** @file Session ids of bulk work, as the server takes them. */
import { PrecisError } from "../../errors.js";
import { sessionId } from "../schemas/common.js";

/** The id itself. @throws INPUT_INVALID for one that the server would refuse */
export function newSessionId(id: string): string {
  if (sessionId.safeParse(id).success) return id;
  throw new PrecisError("INPUT_INVALID", `"${id.slice(0, 80)}" is no session id.`, {
    value: id,
    nextStep: "Use 1 to 64 letters, digits, - or _, a letter or digit first.",
  });
}
