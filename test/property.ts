/**
 * @file fast-check for all property tests, with a seed that is always the same, so that a run of the tests can be repeated.
 * `PRECIS_SEED=$RANDOM npm test` tries other values.
 */
import * as fc from "fast-check";

fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(process.env["PRECIS_SEED"] ?? 20_261_126) });

export { fc };
