// SPDX-License-Identifier: Apache-2.0
/** What processes are granted, as Deno takes it. */

import assert from "node:assert/strict";
import { permissionFlags, type Permissions } from "../../../tiles/runtime/plan.ts";

const NONE: Permissions = { read: [], write: [], env: [], net: [], ffi: [] };
const flags = (granted: Partial<Permissions>) =>
  permissionFlags({ ...NONE, ...granted }, (sentence) => new Error(sentence));

Deno.test("each kind of permission is a flag with what is granted, and none where nothing is", () => {
  assert.deepEqual(flags({}), []);
  assert.deepEqual(flags({ read: ["/a", "/b"], net: ["192.0.2.1:53"] }), [
    "--allow-read=/a,/b",
    "--allow-net=192.0.2.1:53",
  ]);
});

Deno.test("a path with a comma in it grants no two others, and is named", () => {
  assert.throws(
    () => flags({ read: ["/a", "/b,/etc"] }),
    /^Error: cannot allow read of \/b,\/etc: Deno takes the comma/,
  );
});
