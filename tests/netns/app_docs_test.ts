/**
 * What docs/apps.md says to type: the app that is written there, run by the source tree from the
 * folder that it is in, and asked as it is said there.
 */

import { strict as assert } from "node:assert";
import { typedIn, writtenFolder } from "../ten_minutes.ts";
import { labTest } from "./lab.ts";

labTest("docs/apps.md, steps 3 and 4: the app is run, and answers", async (lab) => {
  const host = await lab.namespace("host");
  const running = host.spawn(["sh", "-c", `cd ${writtenFolder()} && exec ${typedIn(3)}`]);
  try {
    await running.stderr.find("ready:", { timeoutMs: 60_000 });
    const asking = host.spawn(["sh", "-c", typedIn(4)]);
    assert.equal(await asking.stdout.find("hello"), "hello 127.0.0.1, you sent 3 bytes");
  } finally {
    // What `deno task` cannot hand on, such as SIGKILL, would leave it running.
    running.kill("SIGTERM");
    await running.ended();
  }
  assert.equal((await running.ended()).code, 0);
});
