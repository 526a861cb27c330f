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
import { selfCommand } from "../../../cli/command.ts";
import { temporaryFile } from "../config_file.ts";
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

/** Names of a process's threads, the process's own first. */
function threadNames(pid: number): string[] {
  return [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => Number(name))
    .sort((a, b) => a - b)
    .map((thread) => Deno.readTextFileSync(`/proc/${pid}/task/${thread}/comm`).trimEnd());
}

labTest("ps, top and ss show by its name which process and which thread is which", async (lab) => {
  const { host } = await pair(lab);
  const appliance = await Appliance.start(host, [
    ...["--interface", "eth0", "--listen", "7=echo*2", "--control", socketPath()],
  ]);
  const processes = processesOf(appliance.process.pid);
  assert.deepEqual(
    processes.map(({ pid }) => threadNames(pid)[0]),
    ["tegula", "appliance", "echo.1", "echo.2"],
  );
  const ofAppliance = threadNames(processes[1].pid);
  for (const tile of ["netlink", "net0", "status"]) {
    assert.ok(ofAppliance.includes(tile), ofAppliance.join(" "));
  }
  // The app's tile is a thread beside the first.
  assert.ok(threadNames(processes[2].pid).slice(1).includes("echo.1"));
  const shown = await host.run(["ps", "-o", "args=", "-p", processes.map(({ pid }) => pid).join()]);
  assert.match(shown, /^tegula: appliance .*\ntegula: echo\.1 .*\ntegula: echo\.2 /m);
  assert.match(await host.run(["ss", "-Hulpn", "sport = :7"]), /\("tegula",/);
});

/** Runs `tegula run` with a standard error that JOURNAL_STREAM says is the journal's. */
function inJournal(args: readonly string[]): string[] {
  const script = 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"';
  return ["sh", "-c", script, "sh", ...selfCommand(), "run", ...args];
}

labTest(
  "lines for the journal have levels, and what an operator must see is a warning",
  async (lab) => {
    const { host } = await pair(lab);
    const file = temporaryFile(
      `export default function () {
       console.log("info");
       console.warn("warning");
       console.error("error\\n<0>forged");
       return { receive() {} };
     }`,
      "app.ts",
    );
    const process = host.spawn(
      inJournal(["--interface", "eth0", "--listen", `7=${file}`, "--listen", "9=discard"]),
    );
    await process.stderr.find("<5>ready: eth0 answering ");
    Deno.kill(processesOf(process.pid).find(({ role }) => role === "appliance")!.pid, "SIGKILL");
    await process.stderr.find("<5>appliance: the next one serves");
    const lines = process.stderr.all;
    for (const line of lines) assert.match(line, /^<[3-6]>/);
    const own = lines.filter((line) => line.includes("app.ts: "));
    assert.deepEqual(own.map((line) => line.replace(/>.*app.ts: /, "> ")), [
      "<6> info",
      "<4> warning",
      "<3> error",
      "<3> <0>forged",
    ]);
    const warnings = lines.filter((line) => /^<[0-4]>/.test(line) && !own.includes(line));
    assert.deepEqual(warnings.map((line) => line.replace(/ \(.*/, "")), [
      "<3>appliance: it was ended by SIGKILL; starting the next one",
    ]);
    process.kill("SIGTERM");
    await process.ended();
    // Of another stream than its standard error nothing is known.
    const other = host.spawn([
      "sh",
      "-c",
      'JOURNAL_STREAM=1:2 exec "$@"',
      "sh",
      ...selfCommand(),
      "run",
    ]);
    await other.ended();
    assert.match(other.stderr.all.at(-1)!, /^tegula: /);
    const wrong = host.spawn(inJournal([]));
    await wrong.ended();
    assert.match(wrong.stderr.all.at(-1)!, /^<3>tegula: /);
  },
);
