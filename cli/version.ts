/** The version, from deno.json, which is where a release changes it. @module */

import project from "../deno.json" with { type: "json" };

/** Version of this program, as in deno.json. */
export const VERSION: string = project.version;
