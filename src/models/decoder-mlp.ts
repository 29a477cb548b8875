/** @file The gated MLP of a decoder layer. */
import type { Value } from "../graph/builder.js";
import { gelu, mul, swiglu } from "../graph/ops/elementwise.js";
import { narrow, widen, type DecoderContext, type Place } from "./decoder-context.js";
import { project, projectGroup } from "./decoder-projections.js";

/** The output of a layer's MLP for its normed input, [..., hidden] both, in the type of the matrix products. */
export function emitMlp(decoder: DecoderContext, place: Place, x: Value): Value {
  const { intermediateSize, mlpBias } = decoder.config;
  const [gate, up] = projectGroup(decoder, place, x, {
    stack: "mlp.gate_up_proj",
    parts: ["mlp.gate_proj", "mlp.up_proj"],
    sizes: [intermediateSize, intermediateSize],
    bias: mlpBias,
    // As wide as they are, taking one product apart would cost more than the second product.
    join: false,
  }) as [Value, Value];
  return project(decoder, place, activate(decoder, gate, up), "mlp.down_proj", mlpBias);
}

/** activation(gate) · up */
function activate(decoder: DecoderContext, gate: Value, up: Value): Value {
  const { graph } = decoder;
  const { activation } = decoder.config;
  if (activation === "silu") return swiglu(graph, gate, up);
  // The powers of a GELU and of its gradient leave the range of half floats.
  const wide = gelu(graph, widen(decoder, gate), activation === "gelu" ? "none" : "tanh");
  return mul(graph, narrow(decoder, wide), up);
}
