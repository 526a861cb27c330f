/**
 * What code that took over a tile or an app could try from inside the running program: every thread that a
 * tile runs on makes the system calls of `calls.ts`, and an app does the harm of `harms.ts`, while a
 * client counts echo's answers.
 */

import { existsSync } from "node:fs";
import { deepEqual, equal, ok } from "node:assert/strict";
import { processTree, type TreeProcess } from "../../bench/service.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  HOST,
  introduce,
  labTest,
  pair,
} from "../netns/lab.ts";
import { configured, temporaryFile } from "../netns/config_file.ts";
import {
  allowedErrors,
  attemptsOn,
  inject,
  OF_APPLIANCE,
  OF_APPLIANCE_BESIDE_TILES,
  readOnlyDescriptors,
  statusOf,
  threadsOf,
} from "./calls.ts";
import { HARMS } from "./harms.ts";

const METRICS = "127.0.0.1:9464";
const CAP_NET_ADMIN = 1 << 12;
const NOTHING: ReadonlySet<string> = new Set();

labTest("no tile of a running program gets out by a system call", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const appliance = await Appliance.start(
    host,
    configured(`listen = ["7=echo", "37=time"]\nmetrics = "${METRICS}"`),
  );
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 200 });
  await answeredAtLeast(asker, 20);
  const tree = processTree(appliance.process.pid);
  const [master] = tree;
  // As long as tiles are threads of the master, its other threads have no filter.
  const isConfined = ({ kind }: { kind: string }, seccomp: string) =>
    kind !== "master" || seccomp === "2";
  let tried = 0;
  for (const process of tree) {
    const { pid, kind } = process;
    const place = {
      ...{ master: master.pid, other: Deno.pid, self: pid },
      readOnly: readOnlyDescriptors(pid).slice(0, 4),
    };
    const filters = (tid: number) => Number(statusOf(pid, tid).Seccomp_filters ?? 0);
    const fewest = Math.min(...threadsOf(pid).map(filters));
    for (const tid of threadsOf(pid)) {
      const { Name, Seccomp, NoNewPrivs, CapEff } = statusOf(pid, tid);
      const isTile = filters(tid) > fewest;
      const may = kind === "app" ? NOTHING : isTile ? OF_APPLIANCE : OF_APPLIANCE_BESIDE_TILES;
      const attempts = attemptsOn(place).filter(([what]) => !may.has(what));
      if (!isConfined(process, Seccomp)) continue;
      deepEqual({ Name, Seccomp, NoNewPrivs }, { Name, Seccomp: "2", NoNewPrivs: "1" });
      equal(parseInt(CapEff, 16) & ~CAP_NET_ADMIN, 0, `capabilities of ${Name}`);
      const outcomes = await inject(tid, attempts.map(([, { call }]) => call), place);
      const wrong = attempts.map(([what, attempt], i) => [what, attempt, outcomes[i]] as const)
        .filter(([, attempt, outcome]) => !allowedErrors(attempt).includes(outcome ?? 0))
        .map(([what, , outcome]) => `${what}: ${outcome}`);
      deepEqual(wrong.map((each) => `${Name}: ${each}`), []);
      tried++;
    }
  }
  ok(tried >= 5, `${tried} threads: netlink, net, status and two apps`);
  const metrics = await host.run(["curl", "--silent", `http://${METRICS}/metrics`]);
  for (const tile of ["netlink", "net0", "echo", "time", "status"]) {
    for (const call of ["bpf", "ptrace", "socket", "setns", "keyctl"]) {
      ok(
        metrics.includes(`tegula_refused_calls_total{tile="${tile}",call="${call}"} `),
        `${tile} ${call}`,
      );
    }
  }
  await answeredAtLeast(asker, (await asker.progress()).answered + 20);
  const { sent, answered, mismatched } = await asker.stop();
  deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
}, { refusedCalls: true });

/** An app that echoes, and runs what a datagram that begins with `run ` says. */
const RUNNER = `
import fs from "node:fs";
const write = (fd, bytes) => fs.writeSync(fd, bytes);
export function answer({ payload }) {
  const text = new TextDecoder().decode(payload);
  if (text.startsWith("run ")) new Function("write", "say", text.slice(4))(write, () => {});
  return payload;
}
`;
const PORT = 4000;

/** Apps that are no processes end the program with them. */
const ARE_PROCESSES = existsSync(
  new URL("../../tiles/runtime/appliance_process.ts", import.meta.url),
);

/** The numbers of the program's processes, without those of the app that is attacked. */
function others(tree: readonly TreeProcess[], attacked: number | undefined): number[] {
  return tree.map(({ pid }) => pid).filter((pid) => pid !== attacked);
}

for (const [what, { runs, goesOn, mayGoOn, processOnly }] of Object.entries(HARMS)) {
  if (!ARE_PROCESSES || processOnly) continue;
  labTest(`an app of the running program: ${what}: it is alone in that`, async (lab) => {
    const { host, client, asker } = await pair(lab);
    await introduce({ host, client });
    const appliance = await Appliance.start(
      host,
      configured(
        `listen = ["7=echo", "${PORT}=hostile"]\n[apps.hostile]\nmodule = "${
          temporaryFile(RUNNER, ".js")
        }"`,
      ),
    );
    const { process: { pid, stderr } } = appliance;
    const hostile = new Client(client);
    equal((await askUntilAnswered(hostile, { port: PORT })).text, "hello");
    const before = processTree(pid);
    // The apps' processes were started in the order of the configuration.
    const attacked = before.filter(({ kind }) => kind === "app").at(-1)?.pid;
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 200 });
    await answeredAtLeast(asker, 20);
    const from = stderr.all.length;
    await ask(hostile, { port: PORT, payload: `run ${runs}`, timeoutMs: 300 });
    if (!goesOn && !mayGoOn) await stderr.find("hostile: ", { from });
    equal((await askUntilAnswered(hostile, { port: PORT })).text, "hello");
    const after = processTree(pid);
    const again = after.filter(({ kind }) => kind === "app").map(({ pid }) => pid);
    if (goesOn) ok(again.includes(attacked!), "it is the same process");
    else if (!mayGoOn) ok(!again.includes(attacked!), "it was started again");
    const kept = others(before, attacked);
    deepEqual(kept.filter((each) => !after.some(({ pid }) => pid === each)), []);
    await answeredAtLeast(asker, (await asker.progress()).answered + 20);
    const { sent, answered, mismatched } = await asker.stop();
    deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    deepEqual(stderr.all.filter((line) => /^app1: a lie/.test(line)), []);
  }, { refusedCalls: true });
}
