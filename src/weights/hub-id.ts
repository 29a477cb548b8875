/** @file Reads what a user calls a model: `owner/name[@revision]`, or a path that turned out not to exist. */

import { PrecisError } from "../errors.js";

/** A model on the hub. */
export interface HubModelName {
  /** `owner/name`. */
  id: string;
  /** Branch, tag or commit. */
  revision: string;
}

const HUB_ID = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;
const REVISION = /^[A-Za-z0-9][\w.-]*(\/[\w.-]+)*$/;

/**
 * The hub id and revision in `name`, which is no existing directory.
 * Throws FILE_NOT_FOUND for paths and bare names, OPTION_INVALID for malformed ids and revisions.
 */
export function parseModelName(name: string, revisionOption?: string): HubModelName {
  if (typeof name !== "string" || name === "") {
    throw new PrecisError("OPTION_INVALID", "The model must be a directory or a hub id, not an empty text.", {
      value: name,
      nextStep: 'Write for example "models/my-model" or "owner/name".',
    });
  }
  const at = name.indexOf("@");
  const id = at === -1 ? name : name.slice(0, at);
  const suffix = at === -1 ? undefined : name.slice(at + 1);
  if (looksLikePath(id)) throw missingDirectory(name, "Check the path; a hub id has the form owner/name.");
  if (!id.includes("/")) {
    throw missingDirectory(name, 'Run "precis models" for names that are there, or write a hub id as owner/name.');
  }
  if (!HUB_ID.test(id) || id.includes("..")) throw malformed("hub id", id, "Write it as owner/name[@revision].");
  if (suffix !== undefined && revisionOption !== undefined && suffix !== revisionOption) {
    const nextStep = "Name the revision once.";
    throw malformed("revision", `${suffix} (while the option says ${revisionOption})`, nextStep);
  }
  const revision = suffix ?? revisionOption ?? "main";
  if (!REVISION.test(revision) || revision.includes("..")) {
    throw malformed("revision", revision, "Name a branch, a tag or a commit.");
  }
  return { id, revision };
}

function looksLikePath(id: string): boolean {
  return /^[./~]/.test(id) || /^[A-Za-z]:/.test(id) || id.includes("\\") || id.split("/").length > 2;
}

function missingDirectory(name: string, nextStep: string): PrecisError {
  return new PrecisError("FILE_NOT_FOUND", `There is no model directory ${name}.`, { value: name, nextStep });
}

function malformed(what: string, value: string, nextStep: string): PrecisError {
  return new PrecisError("OPTION_INVALID", `${JSON.stringify(value)} is not a valid ${what}.`, { value, nextStep });
}
