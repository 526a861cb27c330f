import { strict as assert } from "node:assert";
import { UserError } from "../../cli/errors.ts";
import { flags } from "../../cli/narrow.ts";
import { NO_GRANTS } from "../../tiles/runtime/permissions.ts";

Deno.test("what is not needed is not allowed, and each kind is named once", () => {
  const grants = { ...NO_GRANTS, write: ["/run/a", "/run/b"] };
  const all = flags({ grants, files: ["/etc/tegula.toml"] });
  assert.deepEqual(all.map((each) => each.split("=")[0]), [
    ...["--allow-read", "--allow-ffi", "--allow-env", "--allow-write"],
  ]);
  assert.ok(all[0].endsWith(",/etc/tegula.toml"));
  assert.equal(all[3], "--allow-write=/run/a,/run/b");
});

Deno.test("a path with a comma, which would allow two others, is refused", () => {
  for (const path of ["/srv/a,/etc", "/srv/a,b"]) {
    const refused = (error: unknown) =>
      error instanceof UserError && error.status === 2 && error.message.includes(path);
    assert.throws(() => flags({ grants: NO_GRANTS, files: [path] }), refused);
    assert.throws(() => flags({ grants: { ...NO_GRANTS, read: [path] }, files: [] }), refused);
    assert.throws(() => flags({ grants: { ...NO_GRANTS, write: [path] }, files: [] }), refused);
  }
});
