/** @file Inner modules of the library, types from its declarations and code from the repository's dist. */
import type * as BuilderModule from "../../dist/graph/builder.js";
import type * as ElementwiseModule from "../../dist/graph/ops/elementwise.js";
import type * as LinalgModule from "../../dist/graph/ops/linalg.js";
import type * as MovementModule from "../../dist/graph/ops/movement.js";
import type * as ReductionModule from "../../dist/graph/ops/reduction.js";
import type * as EngineSessionModule from "../../dist/runtime/engine-session.js";
import type * as DtypeModule from "../../dist/tensor/dtype.js";
import type * as BaseModelModule from "../../dist/train/base-model.js";
import type * as BatchesModule from "../../dist/train/batches.js";
import type * as PaddedBatchModule from "../../dist/train/padded-batch.js";
import type * as ParallelPassModule from "../../dist/train/parallel-pass.js";
import type * as ParametersModule from "../../dist/train/parameters.js";
import type * as TrainerModule from "../../dist/train/trainer.js";
import type * as TrainingGraphModule from "../../dist/train/training-graph.js";
import type * as QuantizeModule from "../../dist/weights/quantize-blocks.js";

/** The repository's root, seen from the compiled file. */
export const root = new URL("../../../", import.meta.url);

async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`dist/${path}`, root).href)) as Module;
}

/** Everything that one training step is made of. */
export async function importTraining() {
  return {
    ...(await built<typeof BaseModelModule>("train/base-model.js")),
    ...(await built<typeof BatchesModule>("train/batches.js")),
    ...(await built<typeof PaddedBatchModule>("train/padded-batch.js")),
    ...(await built<typeof ParallelPassModule>("train/parallel-pass.js")),
    ...(await built<typeof ParametersModule>("train/parameters.js")),
    ...(await built<typeof TrainerModule>("train/trainer.js")),
    ...(await built<typeof TrainingGraphModule>("train/training-graph.js")),
  };
}

/** Everything that a graph of matrix products is made of. */
export async function importProducts() {
  return {
    ...(await built<typeof BuilderModule>("graph/builder.js")),
    ...(await built<typeof ElementwiseModule>("graph/ops/elementwise.js")),
    ...(await built<typeof LinalgModule>("graph/ops/linalg.js")),
    ...(await built<typeof MovementModule>("graph/ops/movement.js")),
    ...(await built<typeof ReductionModule>("graph/ops/reduction.js")),
    ...(await built<typeof EngineSessionModule>("runtime/engine-session.js")),
    ...(await built<typeof DtypeModule>("tensor/dtype.js")),
    ...(await built<typeof QuantizeModule>("weights/quantize-blocks.js")),
  };
}
