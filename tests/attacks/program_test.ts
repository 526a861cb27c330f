// SPDX-License-Identifier: Apache-2.0
/**
 * What code that took over a tile or an app could try from inside the running program: every thread that a
 * tile runs on makes the system calls of `calls.ts`, and an app does the harm of `harms.ts`, while a
 * client counts echo's answers.
 */

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
  deepEqual(tree.map(({ kind }) => kind).sort(), ["app", "app", "appliance", "master"]);
  // The master holds all there is; those below it are confined from their first instruction on.
  const users = tree.map(({ pid }) => statusOf(pid, pid).Uid);
  equal(new Set(users).size, tree.length, `each has a user of its own: ${users}`);
  for (const { pid, kind } of tree.filter(({ kind }) => kind !== "master")) {
    const place = {
      ...{ master: master.pid, other: Deno.pid, self: pid },
      readOnly: readOnlyDescriptors(pid).slice(0, 4),
    };
    const filters = (tid: number) => Number(statusOf(pid, tid).Seccomp_filters ?? 0);
    const fewest = Math.min(...threadsOf(pid).map(filters));
    let tiles = 0;
    for (const tid of threadsOf(pid)) {
      const status = statusOf(pid, tid);
      const { Name, Seccomp, NoNewPrivs, Groups, Uid } = status;
      deepEqual({ Name, Seccomp, NoNewPrivs, Groups }, {
        ...{ Name, Seccomp: "2", NoNewPrivs: "1", Groups: "" },
      });
      deepEqual(
        Uid.split(/\s+/),
        Array(4).fill(users[tree.findIndex((each) => each.pid === pid)].split(/\s+/)[0]),
      );
      const isTile = filters(tid) > fewest;
      if (isTile) tiles++;
      const kept = kind === "appliance" ? CAP_NET_ADMIN : 0;
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
        equal(parseInt(status[set], 16) & ~kept, 0, `${set} of ${Name} of ${kind}`);
      }
      const may = kind === "app" ? NOTHING : isTile ? OF_APPLIANCE : OF_APPLIANCE_BESIDE_TILES;
      const attempts = attemptsOn(place).filter(([what]) => !may.has(what));
      const outcomes = await inject(tid, attempts.map(([, { call }]) => call), place);
      const wrong = attempts.map(([what, attempt], i) => [what, attempt, outcomes[i]] as const)
        .filter(([, attempt, outcome]) => !allowedErrors(attempt).includes(outcome ?? 0))
        .map(([what, , outcome]) => `${kind}: ${Name}: ${what}: ${outcome}`);
      deepEqual(wrong, []);
    }
    if (kind === "appliance") ok(tiles >= 3, `${tiles} tiles: netlink, net and status`);
  }
  const metrics = await host.run(["curl", "--silent", `http://${METRICS}/metrics`]);
  for (const tile of ["netlink", "net0", "echo", "time", "status"]) {
    const labels = `${["echo", "time"].includes(tile) ? `app="${tile}",` : ""}tile="${tile}"`;
    for (const call of ["bpf", "ptrace", "socket", "setns", "keyctl"]) {
      ok(
        metrics.includes(`tegula_refused_calls_total{${labels},call="${call}"} `),
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

/** The numbers of the program's processes, without those of the app that is attacked. */
function others(tree: readonly TreeProcess[], attacked: number | undefined): number[] {
  return tree.map(({ pid }) => pid).filter((pid) => pid !== attacked);
}

for (const [what, { runs, goesOn, mayGoOn, processOnly }] of Object.entries(HARMS)) {
  if (processOnly) continue;
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
    // What it was ended by waits for its successor, which may end by it, too, and skips it then.
    const said = stderr.all.slice(from).filter((line) => /^hostile: (killed|ended)/.test(line));
    if (!mayGoOn) ok(goesOn ? said.length === 0 : [1, 2].includes(said.length), said.join("\n"));
  }, { refusedCalls: true });
}
