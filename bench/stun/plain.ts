// SPDX-License-Identifier: Apache-2.0
/** A STUN server in the short form. */

import type { Request } from "../../tiles/app/contract.ts";
import { answerTo } from "./binding.mjs";

export function answer({ payload, address, port }: Request) {
  return answerTo(payload, address.words[3], port);
}
