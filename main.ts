/**
 * The entry of Tegula: hands the command line to `cli/`.
 *
 * @module
 */

import { main } from "./cli/main.ts";

Deno.exit(await main(Deno.args));
