// SPDX-License-Identifier: Apache-2.0
/**
 * The seed of all random cases in tests. It is another one in each run, and printed; `TEGULA_SEED` set
 * to it repeats the run.
 */

const given = Deno.env.get("TEGULA_SEED");

/** From 0 to 2³¹ - 1. */
export const SEED = given === undefined
  ? crypto.getRandomValues(new Uint32Array(1))[0] >>> 1
  : Number(given);

if (!Number.isInteger(SEED)) {
  throw new Error(`TEGULA_SEED has to be a whole number, not "${given}"`);
}
console.log(`random cases: TEGULA_SEED=${SEED} repeats them`);
