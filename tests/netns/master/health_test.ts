// SPDX-License-Identifier: Apache-2.0
/** How a running appliance tells whether it is well: what goes wrong is said, and said to be over. */

import assert from "node:assert/strict";
import { NEIGHBORS } from "../../../netbase/layout.ts";
import { formatAddress } from "../../../netbase/route.ts";
import { type HealthReport } from "../../../tiles/runtime/health.ts";
import {
  answeredAtLeast,
  Appliance,
  askUntilAnswered,
  CLIENT,
  ECHO,
  eventually,
  HOST,
  introduce,
  labTest,
  type Namespace,
  pair,
  secondLink,
  socketPath,
} from "../lab.ts";
import { selfCommand } from "../../../cli/command.ts";
import { configured, temporaryFile } from "../config_file.ts";
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

/** Runs `tegula ARGS…`: its exit status, and what it printed and said. */
async function run(namespace: Namespace, ...args: string[]) {
  const process = namespace.spawn([...selfCommand(), ...args]);
  const { code } = await process.ended();
  return { code, out: process.stdout.all.join("\n"), said: process.stderr.all.join("\n") };
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

labTest(
  "whoever drains it has it be not ready and serve on, until it is undrained",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const control = socketPath();
    const args = configured(`listen = ["7=echo"]\ncontrol = "${control}"\nmetrics = "${METRICS}"`);
    const appliance = await Appliance.start(host, args);
    const check = async (expected: string) => {
      const [first] = (await probe(host, "/ready")).split("\n");
      assert.equal(first, expected);
      assert.equal(await probe(host, "/live"), "200 live");
      assert.equal((await askUntilAnswered(asker)).text, "hello");
    };
    assert.equal((await run(host, "status", "--control", control)).code, 0);
    const drained = await run(host, "drain", "--control", control);
    assert.deepEqual([drained.code, drained.out], [0, "draining: still serving, but not ready"]);
    await check("503 draining");
    const { code, out } = await run(host, "status", "--control", control);
    assert.deepEqual([code, out.split(" for ")[0]], [10, "draining"]);
    for (const change of ["reload", "upgrade"]) {
      assert.equal((await run(host, change, "--control", control)).code, 0);
      await check("503 draining");
    }
    assert.equal((await run(host, "undrain", "--control", control)).code, 0);
    await check("200 ready");
    await appliance.process.stderr.find("no longer draining");
  },
);

/** Prints what is said to the socket that systemd would listen on; its argument is the path. */
const SYSTEMD = `import socket, sys
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.bind(sys.argv[1])
print("bound", flush=True)
while True: print(told.recv(4096).decode(), flush=True)`;

labTest(
  "SIGTERM drains first for as long as is configured, and a second one ends it",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const control = socketPath();
    const told = `${Deno.makeTempDirSync()}/notify`;
    // What systemd is told, a line each.
    const systemd = host.spawn(["python3", "-c", SYSTEMD, told]);
    await systemd.stdout.find("bound");
    const start = (seconds: number) =>
      Appliance.start(
        host,
        configured(`listen = ["7=echo"]\ndrain_seconds = ${seconds}\ncontrol = "${control}"`),
        { env: { NOTIFY_SOCKET: told } },
      );
    const { process } = await start(3600);
    process.kill("SIGTERM");
    await process.stderr.find("it ends in 3600 s; a second signal ends it immediately");
    await becomes(control, "draining");
    assert.equal((await askUntilAnswered(asker)).text, "hello");
    process.kill("SIGTERM");
    assert.equal((await process.ended()).code, 0);
    const { process: brief } = await start(0.5);
    brief.kill("SIGTERM");
    assert.equal((await brief.ended()).code, 0);
    systemd.kill("SIGTERM");
    await systemd.ended();
    const words = systemd.stdout.all.join("\n");
    for (const word of ["READY=1", "STATUS=starting", "STATUS=ready", "STATUS=draining"]) {
      assert.ok(words.includes(word), `${word} is not in ${words}`);
    }
  },
);

labTest("while it waits for its interface it is starting, and says so", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  await host.ip("link set eth0 down");
  const { process } = Appliance.launch(host, [...ECHO, "--control", control, "--metrics", METRICS]);
  await process.stderr.find("eth0: waiting, it is down");
  await host.ip("address add 192.0.2.7/32 dev lo");
  assert.equal((await run(host, "status", "--control", control)).code, 9);
  await host.ip("link set eth0 up");
  await process.stderr.find("ready:");
  assert.equal(await probe(host, "/ready"), "200 ready");
});

labTest("an interface that is deleted makes it unwell until it is served again", async (lab) => {
  const both = await pair(lab);
  const { host } = both;
  await secondLink(lab, both);
  const control = socketPath();
  await Appliance.start(host, [...ECHO, "--interface", "eth1", "--control", control]);
  await host.ip("link delete eth1");
  await becomes(control, "unwell, af_xdp_lost eth1");
  const { code, out } = await run(host, "status", "--control", control);
  assert.equal(code, 11);
  assert.match(out, /^unwell for .*\n {2}AF_XDP is lost on eth1\n/);
  await secondLink(lab, both);
  await becomes(control, "ready");
});

labTest("a full neighbour table makes it unwell until there is room", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  await Appliance.start(host, [...ECHO, "--control", control]);
  // gc_thresh3 does not bound permanent ones.
  const all = Array.from({ length: NEIGHBORS }, (_, i) => formatAddress(0xc6_12_00_00 + i));
  await host.batch(
    all.map((to) => `neigh replace ${to} lladdr 02:00:00:00:00:01 dev eth0 nud permanent`),
  );
  await eventually(
    "a full table",
    async () => /neighbor_table_full/.test(await stateOf(control)) || undefined,
  );
  await host.batch(all.slice(0, 100).map((to) => `neigh del ${to} dev eth0`));
  await becomes(control, "ready");
});

labTest("what ends again and again makes it unwell, and a port without an app", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  const needed = temporaryFile("", ".needed");
  const app = temporaryFile(
    `export default function () {
       Deno.readTextFileSync("${needed}");
       return { receive() {} };
     }`,
    ".ts",
  );
  const args = configured(
    `listen = ["9=discard", "5300-5301=needy"]
     control = "${control}"
     [apps.needy]
     module = "${app}"
     read = ["${needed}"]`,
  );
  const appliance = await Appliance.start(host, args);
  const needy = processesOf(appliance.process.pid).filter(({ role }) => role === "app").at(-1)!;
  await Deno.remove(needed);
  Deno.kill(needy.pid, "SIGKILL");
  await becomes(control, "unwell, restarts needy, no_ready_app 5300-5301");
  await Deno.writeTextFile(needed, "");
  await becomes(control, "unwell, restarts needy");
});

labTest("an appliance that is stopped is unwell before it is replaced", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  const { process } = await Appliance.start(host, [...ECHO, "--control", control]);
  Deno.kill(processesOf(process.pid)[1].pid, "SIGSTOP");
  await process.stderr.find("unwell: net0 makes no progress");
  await process.stderr.find("appliance: it hangs; starting a successor");
  await becomes(control, "ready");
});

labTest("status says in JSON what it says in words, and of none that none runs", async (lab) => {
  const both = await pair(lab);
  const { host, client, asker } = both;
  await introduce(both);
  const control = socketPath();
  await Appliance.start(host, [...ECHO, "--control", control]);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
  await answeredAtLeast(asker, 100);
  const { code, out } = await run(host, "status", "--json", "--control", control);
  const status = JSON.parse(out);
  assert.equal(code, 0);
  assert.deepEqual(
    [status.state, status.reasons, status.sync, status.xdp, status.config],
    ["ready", [], "synced", ["eth0"], null],
  );
  assert.deepEqual(status.listen, [{ port: 7, app: "echo" }]);
  assert.ok(status.rx.packets_per_second > 100, out);
  const [process] = status.process.filter(({ name }: { name: string }) => name === "echo");
  assert.ok(process.memory > 1e7 && process.restarts === 0, out);
  const [eth0] = status.interface;
  assert.deepEqual([eth0.name, eth0.mode], ["eth0", "xdp"]);
  assert.ok(eth0.rx_packets_per_second > 100 && status.port[0].tx_packets_per_second > 100, out);
  const text = await run(host, "status", "--control", control);
  assert.match(text.out, /^ready for .*\ntegula .*, up .*, asked at .*\n/);
  assert.match(text.out, /\necho /);

  const none = await run(host, "status", "--control", "/tmp/none.sock");
  assert.equal(none.code, 12);
  // Of another network namespace it is said so.
  assert.equal(text.said, "");
  const foreign = await run(client, "status", "--control", control);
  assert.equal(foreign.code, 0);
  assert.match(foreign.said, /^tegula: the tegula at .* runs in another network namespace, /);
  const mixed = await run(client, "explain", HOST, "--control", control);
  assert.equal(mixed.code, 2);
  assert.match(mixed.said, /^tegula: .*\ntegula: .* whose routes are not read here; /);
  await asker.stop();
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
    await process.stderr.find("<5>appliance: the successor serves");
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
      "<3>appliance: it was ended by SIGKILL; starting a successor",
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
