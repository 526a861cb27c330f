// SPDX-License-Identifier: Apache-2.0
/**
 * fast-check with the seed of this run. Its report of a failure contains the counterexample and its
 * path. The same `TEGULA_SEED` reproduces it.
 */

import fc from "fast-check";
import { SEED } from "../seed.ts";

fc.configureGlobal({ seed: SEED });

export default fc;
