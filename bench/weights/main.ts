/** @file `npm run weights [q4_0 q8_0 f16]`: writes the model files and prints where they are. */
import type { GgufQuantization } from "./llama-gguf.js";
import { prepareCheckpoint, prepareGguf } from "./prepare.js";

const known: readonly GgufQuantization[] = ["q4_0", "q8_0", "f16"];
const asked = process.argv.slice(2);
console.log(prepareCheckpoint());
for (const name of asked.length > 0 ? asked : ["q4_0"]) {
  const quantization = known.find((format) => format === name);
  if (quantization === undefined) throw new Error(`"${name}" is not one of ${known.join(", ")}.`);
  console.log(prepareGguf(quantization));
}
