/** Asking an appliance that is slow, and one that hangs. */

import assert from "node:assert/strict";
import { Control } from "../../cli/control.ts";
import { linesOf } from "../../cli/lines.ts";

const AUDIT = { do: "audit" };

/** Listens as an appliance does, and answers each line with what `answer` makes of it, if anything. */
async function listen(
  answer: (request: string) => Promise<string> | string | null,
  use: (path: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/control.sock`;
  const open = new Set<Deno.UnixConn>();
  const converse = async (connection: Deno.UnixConn) => {
    open.add(connection);
    for await (const line of linesOf(connection.readable)) {
      const said = await answer(line);
      if (said !== null) await connection.write(new TextEncoder().encode(`${said}\n`));
    }
  };
  const listener = Deno.listen({ transport: "unix", path });
  const served = (async () => {
    for await (const connection of listener) converse(connection).catch(() => {});
  })();
  try {
    await use(path);
  } finally {
    listener.close();
    await served;
    for (const connection of open) {
      try {
        connection.close();
      } catch { /* The other side was first. */ }
    }
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "an appliance that hangs is named so, whatever was asked, and soon",
  // The conversation that was given up stays open until the process ends.
  ...{ sanitizeOps: false, sanitizeResources: false },
  fn: () =>
    listen(() => null, async (path) => {
      const hangs = {
        message: `the tegula at ${path} does not answer: it hangs or was stopped, as by SIGSTOP; ` +
          "SIGCONT or a new start mends that",
        status: 1,
      };
      const connect = () => Control.connect(path, { patienceMillis: 50 });
      await assert.rejects(async () => await (await connect()).one(AUDIT), hangs);
      await assert.rejects(async () => await (await connect()).list({ do: "show" }).next(), hangs);
      // More than fits into the socket's buffers.
      const requests = Array.from({ length: 100_000 }, () => ({ do: "route", destination: "::" }));
      await assert.rejects(async () => await (await connect()).each(requests), hangs);
    }),
});

Deno.test({
  name: "an appliance that takes its time is waited for, as long as it answers others",
  ...{ sanitizeOps: false, sanitizeResources: false },
  async fn() {
    let asked = 0;
    const enough = Promise.withResolvers<void>();
    const answer = async (line: string) => {
      if (line.includes("audit")) await enough.promise;
      else if (++asked === 3) enough.resolve();
      return JSON.stringify({ said: line });
    };
    await listen(answer, async (path) => {
      const control = await Control.connect(path, { patienceMillis: 1000 });
      assert.deepEqual(await control.one(AUDIT), { said: JSON.stringify(AUDIT) });
      assert.ok(asked >= 3, `asked ${asked} times`);
    });
  },
});
