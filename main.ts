// SPDX-License-Identifier: Apache-2.0
/**
 * The entry of Tegula: hands the command line to `cli/`.
 */

import { main } from "./cli/main.ts";

Deno.exit(await main(Deno.args));
