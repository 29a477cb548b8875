/** @file API keys of the server: from the environment, or from a file so that they show in no list of processes. */
import { readFile } from "node:fs/promises";
import { PrecisError } from "../../errors.js";
import type { ApiKey } from "../../server/options.js";

const NAMESPACE = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;

/**
 * The keys in `PRECIS_API_KEY` (whose sessions are in the namespace `default`) and in a file of lines `NAMESPACE KEY`;
 * empty lines and those that begin with # mean nothing.
 * @throws FILE_NOT_FOUND, FILE_INVALID
 */
export async function readKeys(file: string | undefined): Promise<ApiKey[]> {
  const { PRECIS_API_KEY: own } = process.env;
  const keys: ApiKey[] = own === undefined || own === "" ? [] : [{ key: own, namespace: "default" }];
  if (file === undefined) return keys;
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw PrecisError.from(error, "FILE_NOT_FOUND", `The key file ${file} cannot be read`, "Check --keys.");
  });
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const fields = line.trim().split(/\s+/);
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [namespace, key, more] = fields;
    // The line itself may hold a key, so only its number is told.
    if (namespace === undefined || !NAMESPACE.test(namespace) || key === undefined || more !== undefined) {
      throw new PrecisError("FILE_INVALID", `Line ${index + 1} of ${file} is not a namespace and a key.`, {
        value: index + 1,
        nextStep: 'Write lines such as "alice sk-…"; the namespace may have letters, digits, - and _.',
      });
    }
    keys.push({ key, namespace });
  }
  return keys;
}
