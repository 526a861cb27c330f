// SPDX-License-Identifier: Apache-2.0
/**
 * fast-check with the seed of this run. What it says of a failure has the counterexample and its path;
 * the same `TEGULA_SEED` comes to it again.
 */

import fc from "fast-check";
import { SEED } from "../seed.ts";

fc.configureGlobal({ seed: SEED });

export default fc;
