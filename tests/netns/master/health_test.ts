/** How a running appliance tells whether it is well: what goes wrong is said, and said to be over. */

import assert from "node:assert/strict";
import { type HealthReport } from "../../../tiles/runtime/health.ts";
import {
  Appliance,
  askUntilAnswered,
  eventually,
  HOST,
  labTest,
  type Namespace,
  pair,
  socketPath,
} from "../lab.ts";
import { processesOf } from "../processes.ts";

const METRICS = `${HOST}:9464`;

/** The last report of the appliance that is asked at `control`. */
async function reportOf(control: string): Promise<HealthReport> {
  using connection = await Deno.connect({ transport: "unix", path: control });
  await connection.write(new TextEncoder().encode('{"do":"status"}\n'));
  await connection.closeWrite();
  return JSON.parse(await new Response(connection.readable).text()).health;
}

/** State and reasons, as one text. */
async function stateOf(control: string): Promise<string> {
  const { state, reasons } = await reportOf(control);
  return [state, ...reasons.map(({ reason, about }) => `${reason} ${about}`)].join(", ");
}

/** Waits until the state and reasons are these. */
async function becomes(control: string, expected: string): Promise<void> {
  let state = "";
  await eventually(expected, async () => {
    // The status tile may be being replaced.
    state = await stateOf(control).catch(() => "");
    return state === expected ? true : undefined;
  }).catch((error) => assert.equal(state, expected, `${error}`));
}

/** Status and body of what HTTP gives at `path`. */
async function probe(namespace: Namespace, path: string): Promise<string> {
  const program = `const answer = await fetch("http://${METRICS}${path}");
    console.log(answer.status, (await answer.text()).trim());`;
  return (await namespace.run([Deno.execPath(), "eval", program])).trim();
}

function appOf(main: number): number {
  return processesOf(main).find(({ role }) => role === "app")!.pid;
}

labTest("an app that is stopped makes it unwell, and its successor well again", async (lab) => {
  const { host, asker } = await pair(lab);
  const control = socketPath();
  const appliance = await Appliance.start(host, [
    ...["--interface", "eth0", "--listen", "7=echo", "--listen", "9=discard"],
    ...["--control", control, "--metrics", METRICS],
  ]);
  assert.deepEqual(
    [await probe(host, "/live"), await probe(host, "/ready")],
    ["200 live", "200 ready"],
  );
  Deno.kill(appOf(appliance.process.pid), "SIGSTOP");
  await becomes(control, "unwell, no_progress echo");
  assert.equal(await probe(host, "/live"), "503 echo makes no progress");
  assert.equal(await probe(host, "/ready"), "503 unwell\necho makes no progress");
  await appliance.process.stderr.find("unwell: echo makes no progress");
  await becomes(control, "ready");
  await appliance.process.stderr.find("well again");
  assert.equal(await probe(host, "/ready"), "200 ready");
  assert.equal((await askUntilAnswered(asker)).text, "hello");
});
