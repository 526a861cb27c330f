// SPDX-License-Identifier: Apache-2.0
/**
 * What an app does to others when it throws, leaves, hangs, is killed or takes too much memory, which is
 * nothing; and what it may do itself, which is what it was granted.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { residentMib } from "../../../master/proc.ts";
import { configured, temporaryFile } from "../config_file.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  eventually,
  growth,
  HOST,
  introduce,
  type Lab,
  labTest,
  type Namespace,
  pair,
  refusal,
  SILENCE_MILLIS,
} from "../lab.ts";
import { childrenByUser, processesOf } from "../processes.ts";
import { tileCounters } from "../wire_balance.ts";

const MOODY = fileURLToPath(new URL("../../fixtures/app/moody.ts", import.meta.url));
const GRANTED = fileURLToPath(new URL("../../fixtures/app/granted.ts", import.meta.url));
const SLOW = fileURLToPath(new URL("../../fixtures/app/slow.ts", import.meta.url));
const PORT = 4000;

/** Arguments for an appliance with `echo` on port 7 and moody on port 4000. */
function withMoody(): string[] {
  const listen = `listen = ["7=echo", "${PORT}=moody"]`;
  return configured(`${listen}\n[apps.moody]\nmodule = "${MOODY}"`);
}

/** An appliance with echo and moody, and traffic to echo that runs until `settle`. */
async function busy(lab: Lab) {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const appliance = await Appliance.start(host, withMoody());
  const other = new Client(client);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
  await answeredAtLeast(asker, 50);
  async function settle(): Promise<void> {
    const { sent, answered, mismatched } = await asker.stop();
    assert.ok(sent > 50);
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  }
  return { appliance, other, settle };
}

labTest("the largest state and the deepest links go with the least memory", async (lab) => {
  const { host, asker } = await pair(lab);
  const module = temporaryFile(
    "export default ({ state }) => ({ answer: () => `${state.view.fill(1, -9).length}` });",
    ".js",
  );
  const options = 'memory = "64M"\nstate = "1G"\ndepth = 16384';
  await Appliance.start(
    host,
    configured(`listen = ["${PORT}=mine"]\n[apps.mine]\nmodule = "${module}"\n${options}`),
  );
  assert.equal((await askUntilAnswered(asker, { port: PORT })).text, `${2 ** 30}`);
});

labTest("large datagrams go with the least memory in the short form", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const module = temporaryFile('export const answer = () => "taken";', ".js");
  const app = `[apps.mine]\nmodule = "${module}"`;
  const { process } = await Appliance.start(
    host,
    configured(`provider = "socket"\nlisten = ["${PORT}=mine"]\n${app}`),
  );
  const { pid } = processesOf(process.pid).find(({ role }) => role === "app")!;
  const payload = "x".repeat(60_000);
  let most = 0;
  // By itself V8 would let 64 MiB of payloads pile up.
  for (let bytes = 0; bytes < 80 * 2 ** 20; bytes += payload.length) {
    assert.equal((await ask(asker, { port: PORT, payload })).text, "taken");
    most = Math.max(most, residentMib(pid));
  }
  assert.ok(most > 0 && most < 64, `${most} MiB`);
});

labTest("an app that throws loses that datagram, and says so once", async (lab) => {
  const { appliance, other, settle } = await busy(lab);
  const told = { port: PORT, payload: "throw", timeoutMs: SILENCE_MILLIS };
  for (let i = 0; i < 3; i++) assert.equal((await ask(other, told)).bytes, null);
  assert.equal((await ask(other, { port: PORT, payload: "fine" })).text, "fine");
  assert.equal((await appliance.counters()).get("errors"), 3);
  const said = appliance.process.stderr.all.filter((line) => line.includes("as I was told"));
  assert.equal(said.length, 1, said.join("\n"));
  await settle();
});

labTest("an app that leaves is started again alone, with longer and longer pauses", async (lab) => {
  const { appliance, other, settle } = await busy(lab);
  const { stderr } = appliance.process;
  const before = childrenByUser(appliance.process.pid);
  for (let i = 0; i < 2; i++) {
    assert.equal((await ask(other, { port: PORT, payload: "fine" })).text, "fine");
    await ask(other, { port: PORT, payload: "exit", timeoutMs: 1 });
    // The first start continues where it was, and leaves again; the second one skips what waits.
    await stderr.find(
      `moody: ended: it left with status 3; starting it again in ${[100, 400][i]} ms`,
    );
    const back = await askUntilAnswered(other, { port: PORT, payload: "fine" });
    assert.equal(back.text, "fine");
  }
  await settle();
  assert.deepEqual(
    stderr.all.filter((line) => line.startsWith("moody: ")),
    [50, 100, 200, 400].map((pause) =>
      `moody: ended: it left with status 3; starting it again in ${pause} ms`
    ),
  );
  const after = childrenByUser(appliance.process.pid);
  const isSame = Object.keys(before).map((user) => before[user] === after[user]);
  assert.deepEqual(isSame, [true, true, false], "of appliance, echo and moody");
  assert.equal((await appliance.stop()).code, 0);
});

labTest("an app that is killed is started again alone, and answers what waited", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const copy = temporaryFile("export const answer = ({ payload }) => payload;", ".js");
  const appliance = await Appliance.start(
    host,
    configured(`listen = ["7=echo", "${PORT}=copy"]\n[apps.copy]\nmodule = "${copy}"`),
  );
  const { stderr } = appliance.process;
  const flows = [7, PORT].map((port) => ({ source: CLIENT, target: HOST, port }));
  await asker.start({ flows, rate: 500 });
  await answeredAtLeast(asker, 50);
  const [, , pid] = Object.values(childrenByUser(appliance.process.pid));
  Deno.kill(pid, "SIGKILL");
  await stderr.find(
    "copy: killed by SIGKILL (by somebody, or the kernel was out of memory); starting it again in",
  );
  const before = await asker.progress();
  await answeredAtLeast(asker, before.answered + 300);
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  assert.notEqual(Object.values(childrenByUser(appliance.process.pid))[2], pid);
});

labTest("an app that hangs is ended alone, and costs another no packet", async (lab) => {
  const { appliance, other, settle } = await busy(lab);
  const { stderr } = appliance.process;
  const before = await appliance.counters();
  await ask(other, { port: PORT, payload: "hang", timeoutMs: 1 });
  // More than its link holds: what is in there is all that it can keep.
  const sources = { source: CLIENT, target: HOST, port: PORT };
  await other.start({ flows: [sources], rate: 2000 });
  await eventually("more than its link holds", async () => {
    return (await other.progress()).sent > 1500 ? true : undefined;
  });
  await other.stop({ lingerMillis: 0 });
  await eventually("its link to be full", async () => {
    return growth(before, await appliance.counters(), "rx_drop_app_link_full") > 0
      ? true
      : undefined;
  });
  await stderr.find("moody: killed: it hangs; starting it again in 50 ms");
  const back = await askUntilAnswered(other, { port: PORT, payload: "fine" });
  assert.equal(back.text, "fine");
  await settle();
  assert.equal((await appliance.stop()).code, 0);
});

labTest("an app whose memory grows beyond its bound is ended alone", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const grows = `const kept = [];
    export function answer({ payload }) {
      if (payload.length === 4) kept.push(new Uint8Array(16 << 20).fill(1));
      return payload;
    }`;
  const module = temporaryFile(grows, ".js");
  const app = `[apps.grows]\nmodule = "${module}"\nmemory = "200M"`;
  const args = configured(`listen = ["7=echo", "${PORT}=grows"]\n${app}`);
  const appliance = await Appliance.start(host, args);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
  const other = new Client(client);
  assert.equal((await ask(other, { port: PORT, payload: "small" })).text, "small");
  // What it may have is 200 MiB; whether the kernel or the master is first to say so is open.
  const said = await eventually("its end", async () => {
    await ask(other, { port: PORT, payload: "grow", timeoutMs: 20 });
    // Besides, V8 or Deno may say why in lines of their own.
    return appliance.process.stderr.all.find((line) =>
      /^grows: .*(; starting it again in|allocation failed$)/.test(line)
    );
  });
  assert.match(
    said,
    /killed by SIG|its memory is \d+ MiB, above its limit of 200 MiB;|left with status 1;|allocation failed$/,
  );
  const back = await askUntilAnswered(other, { port: PORT, payload: "small" });
  assert.equal(back.text, "small");
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
});

for (const [place, tile] of [["", ""], ["@inline", "net0: "]]) {
  labTest(`an app that is slow and never idle does not hang (slow${place})`, async (lab) => {
    const { host, asker } = await pair(lab);
    const appliance = await Appliance.start(host, [
      ...["--interface", "eth0", "--listen", `7=${SLOW}${place}`],
    ]);
    const { stderr } = appliance.process;
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 2000 });
    // Of what hangs main has had enough by then.
    await stderr.find(`${tile}${SLOW}: tick 7`, { timeoutMs: 60_000 });
    await answeredAtLeast(asker, 500);
    const { sent, answered } = await asker.progress();
    assert.ok(answered < sent, `answered ${answered} of ${sent}`);
    // Amid a turn of hundreds of milliseconds its books are open.
    await asker.stop({ lingerMillis: 0 });
    assert.equal((await appliance.stop()).code, 0, stderr.all.join("\n"));
    assert.ok(!stderr.all.some((line) => line.includes("hangs")), stderr.all.join("\n"));
  });
}

/** What `granted.ts` uses, of each kind, and what it then answers. */
const WRITTEN = temporaryFile("");
Deno.chmodSync(WRITTEN, 0o666);
const USED: Readonly<Record<string, { grant: string; answer: string }>> = {
  read: { grant: temporaryFile("for its eyes"), answer: "for its eyes" },
  write: { grant: WRITTEN, answer: "written" },
  env: { grant: "TEGULA_TEST_GRANT", answer: "a variable" },
  net: { grant: "127.0.0.1:4001", answer: "listening" },
};

/** Starts `granted.ts` with grants of these kinds. */
function withGrants(host: Namespace, kinds: readonly string[], keep = false): Appliance {
  const options = Object.entries(USED).map(([kind, { grant }]) =>
    `${kind} = "${grant.replace("127.0.0.1:", "")}"`
  );
  const args = configured([
    `listen = ["${PORT}=granted"]`,
    `[apps.granted]\nmodule = "${GRANTED}"\nkeep = ${keep}`,
    ...kinds.map((kind) => `${kind} = ["${USED[kind].grant}"]`),
    ...["[apps.granted.options]", ...options],
  ].join("\n"));
  return Appliance.launch(host, args, { env: { [USED.env.grant]: USED.env.answer } });
}

labTest("an app has each grant as it starts, and after that none without keep", async (lab) => {
  const { host, asker } = await pair(lab);
  const kinds = Object.keys(USED);
  for (const keep of [false, true]) {
    const appliance = withGrants(host, kinds, keep);
    await appliance.ready();
    for (const [kind, { answer }] of Object.entries(USED)) {
      const { text } = await ask(asker, { port: PORT, payload: kind });
      assert.equal(text, keep ? answer : "NotCapable", `${kind}, keep = ${keep}`);
    }
    // When it is started again it has all of it again.
    await ask(asker, { port: PORT, payload: "exit", timeoutMs: SILENCE_MILLIS });
    const { text } = await askUntilAnswered(asker, { port: PORT, payload: "env" });
    assert.equal(text, keep ? USED.env.answer : "NotCapable");
    await appliance.stop();
  }
  const writes = (await Deno.readTextFile(WRITTEN)).length / "mine\n".length;
  assert.equal(writes, 7, "at each start, and when it was asked");
});

labTest("an app that lacks a grant of any kind does not start, and is told which", async (lab) => {
  const { host } = await pair(lab);
  const kinds = Object.keys(USED);
  for (const kind of kinds) {
    const appliance = withGrants(host, kinds.filter((other) => other !== kind));
    const { code, said } = await refusal(appliance.process);
    assert.equal(code, 2);
    const sentence = `the app granted: it has no ${kind} access to "${
      USED[kind].grant
    }": [apps] grants`;
    assert.ok(said.includes(sentence), said);
  }
});

labTest("an app that cannot start ends the start with one sentence", async (lab) => {
  const { host } = await pair(lab);
  async function refused(args: string[], sentence: RegExp): Promise<void> {
    const { code, said } = await refusal(Appliance.launch(host, args).process);
    assert.equal(code, 2);
    assert.match(said, sentence);
  }
  const app = (text: string, where = "") => [
    ...["--interface", "eth0"],
    ...["--listen", `7=${temporaryFile(text, ".ts")}${where}`],
  ];
  await refused(app("Deno.exit(5); await new Promise(() => {});"), /\d\.ts: ended: it left/);
  for (const where of ["", "@inline"]) {
    await refused(
      app("export const nothing = 1;", where),
      /\d\.ts: its module exports neither a function/,
    );
    await refused(
      app("export function answer( {", where),
      /\d\.ts: its module cannot be loaded: SyntaxError: .* at file:.*ts:1:\d/,
    );
    await refused(
      app("Promise.reject(new Error('loose')); await new Promise(() => {});", where),
      /the app (in net0|.*\d\.ts): loose; see/,
    );
  }
});

for (const where of ["", "@inline"]) {
  labTest(`an app whose start lasts is named (lasting${where})`, async (lab) => {
    const { host } = await pair(lab);
    const path = temporaryFile("await new Promise(() => setInterval(() => {}, 1e6));", ".ts");
    const args = ["--interface", "eth0", "--listen", `7=${path}${where}`];
    const appliance = Appliance.launch(host, args);
    await appliance.process.stderr.find(`${path}: its start has not ended yet`, {
      timeoutMs: 60_000,
    });
    assert.equal((await appliance.stop()).code, 0);
  });
}

labTest("an app that reads a file too late is told that grants end with the start", async (lab) => {
  const { host, asker } = await pair(lab);
  const late = 'export const answer = () => Deno.readTextFileSync("/etc/hostname");';
  const app = temporaryFile(late, ".ts");
  const listen = `listen = ["${PORT}=late"]\n[apps.late]\nmodule = "${app}"\n`;
  const args = configured(`${listen}read = ["/etc/hostname"]`);
  const appliance = await Appliance.start(host, args);
  await ask(asker, { port: PORT, timeoutMs: SILENCE_MILLIS });
  const said = await appliance.process.stderr.find("late: the app threw");
  assert.match(
    said,
    /it has no read access to "\/etc\/hostname": its grants in \[apps\] end with its start, unless keep = true$/,
  );
});

labTest("what an app cannot be granted is refused in a sentence that mends it", async (lab) => {
  const { host } = await pair(lab);
  const app = temporaryFile("export function answer() {}", ".ts");
  const folder = app.replace(/[^/]*$/, "zones");
  const long = "x".repeat(200);
  Deno.mkdirSync(`${folder}/${long}`, { recursive: true });
  const files = Array.from({ length: 1000 }, (_, i) => `${folder}/${long}/${i}.zone`);
  for (const file of files) Deno.writeTextFileSync(file, "");
  const closed = temporaryFile("for nobody");
  Deno.chmodSync(closed, 0o600);
  const sentences: [grants: string, RegExp][] = [
    [
      `read = ${JSON.stringify(files)}`,
      /the list of files that \[apps\] grants is too long for a command line; grant the folder/,
    ],
    ['read = ["/srv/none.zone"]', /\[apps\] grants it \/srv\/none\.zone, which does not exist/],
    [`read = ["${closed}"]`, /its user \(\d+\) may not read \/.*: chmod a\+r \//],
  ];
  for (const [grants, sentence] of sentences) {
    const args = configured(`listen = ["7=mine"]\n[apps.mine]\nmodule = "${app}"\n${grants}`);
    const { code, said } = await refusal(Appliance.launch(host, args).process);
    assert.equal(code, 2, said);
    assert.match(said, sentence);
  }
});

labTest("an app is told options of any length", async (lab) => {
  const { host, asker } = await pair(lab);
  const size = "export default ({ options }) => ({ answer: () => `${options.long.length}` });";
  const app = `[apps.mine]\nmodule = "${temporaryFile(size, ".js")}"`;
  const options = `options.long = "${"é".repeat(100_000)}"`;
  await Appliance.start(host, configured(`listen = ["7=mine"]\n${app}\n${options}`));
  assert.equal((await ask(asker)).text, "100000");
});

labTest("instances share a port by flow, and each flow keeps to one", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const appliance = await Appliance.start(host, ["--interface", "eth0", "--listen", "7=echo*3"]);
  const flows = Array.from({ length: 120 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 1000 });
  await answeredAtLeast(asker, 300);
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  const tiles = await tileCounters(appliance.process);
  const shares = [1, 2, 3].map((i) => tiles[`echo.${i}`].requests as number);
  assert.equal(shares.reduce((sum, share) => sum + share), sent);
  for (const share of shares) assert.ok(share > sent / 10, shares.join(", "));
});
