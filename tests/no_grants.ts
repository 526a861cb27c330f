// SPDX-License-Identifier: Apache-2.0
import type { Grants } from "../tiles/runtime/plan.ts";

/** Nothing. */
export const NO_GRANTS: Grants = {
  read: [],
  write: [],
  env: [],
  net: [],
  clock: false,
  keep: false,
};
