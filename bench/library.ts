/** @file The library as it is built: its types come from the source tree's side, its code from dist. */

/** The repository's root, seen from the compiled file. */
export const ROOT = new URL("../../", import.meta.url);

/** A compiled module of the library, such as `index.js`. */
export async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`dist/${path}`, ROOT).href)) as Module;
}
