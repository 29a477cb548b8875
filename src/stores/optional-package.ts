/** @file Packages that only some stores need, which whoever uses such a store installs beside Precis. */
import { PrecisError } from "../errors.js";

/**
 * What `load` imports.
 * @throws DEPENDENCY_MISSING, naming the package, if it is not installed
 */
export async function optionalPackage<Module>(name: string, load: () => Promise<Module>): Promise<Module> {
  try {
    return await load();
  } catch (error) {
    throw new PrecisError("DEPENDENCY_MISSING", `This store needs the package "${name}", which cannot be loaded.`, {
      value: name,
      nextStep: `Run \`npm install ${name}\`.`,
      cause: error,
    });
  }
}
