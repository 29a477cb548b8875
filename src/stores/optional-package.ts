/** @file Packages that only some stores and the job queue need, which whoever uses them installs beside Precis. */
import { PrecisError } from "../errors.js";

/**
 * What `load` imports.
 * @param user what needs it, for the error
 * @throws DEPENDENCY_MISSING, naming the package, if it is not installed
 */
export async function optionalPackage<Module>(
  name: string,
  load: () => Promise<Module>,
  user = "This store",
): Promise<Module> {
  try {
    return await load();
  } catch (error) {
    throw new PrecisError("DEPENDENCY_MISSING", `${user} needs the package "${name}", which cannot be loaded.`, {
      value: name,
      nextStep: `Run \`npm install ${name}\`.`,
      cause: error,
    });
  }
}
