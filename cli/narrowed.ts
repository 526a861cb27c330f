/**
 * The entry of an appliance's process once it has been narrowed (`narrow.ts`): serves what it was told
 * to. What it was told has been read and checked before, so that nothing of that is loaded here.
 */

import { statusOf } from "./errors.ts";
import { openLibraries } from "./libraries.ts";
import { told } from "./narrow.ts";
import { serve } from "./serve.ts";

Deno.exit(
  await statusOf(() => serve(told(), openLibraries())),
);
