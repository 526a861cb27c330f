/**
 * fast-check with the same cases in each run, so that a test that fails does so because of what was
 * changed. `TEGULA_PROPERTY_SEED` tries others.
 */

import fc from "fast-check";

fc.configureGlobal({ seed: Number(Deno.env.get("TEGULA_PROPERTY_SEED") ?? 1) });

export default fc;
