// SPDX-License-Identifier: Apache-2.0
/** The markers of [announce]: routes in a table of their own, there while Tegula is ready. */

import { strict as assert } from "node:assert";
import { selfCommand } from "../../../cli/command.ts";
import { configured } from "../config_file.ts";
import { Appliance, eventually, labTest, type Namespace, pair, socketPath } from "../lab.ts";

/** As what the kernel knows them. */
const PROTOCOL = 153;
const FOREIGN = "blackhole 203.0.113.55 proto 154";
/** Of another kind than markers, though with their number. */
const NO_MARKER = `203.0.113.56 dev lo proto ${PROTOCOL} scope link`;

/** The routes in a table, as `ip` prints them. */
async function routes(host: Namespace, table = 5353): Promise<string[]> {
  const text = await host.ip(`route show table ${table}`).catch(() => "");
  return text.split("\n").map((line) => line.trim()).filter((line) => line !== "").sort();
}

const marker = (address: string) => `blackhole ${address} proto ${PROTOCOL}`;

/** Waits until a table has these routes and no other. */
async function untilRoutes(host: Namespace, wanted: readonly string[], table = 5353) {
  let last: string[] = [];
  await eventually(`the routes ${wanted.join(", ")}`, async () => {
    last = await routes(host, table);
    return last.join() === [...wanted].sort().join() ? true : undefined;
  }).catch((error) => {
    throw new Error(`${error.message}, not ${last.join(", ")}`);
  });
}

/** Runs a command of tegula and returns what it printed. */
function tegula(host: Namespace, ...args: string[]): Promise<string> {
  return host.run([...selfCommand(), ...args]);
}

/** A host with two service addresses, and routes of others among the markers. */
async function announcing(lab: Parameters<typeof pair>[0]) {
  const { host } = await pair(lab);
  await host.batch([
    "address add 203.0.113.53/32 dev lo",
    "address add 203.0.113.54/32 dev lo",
    `route add table 5353 ${FOREIGN}`,
    `route add table 5353 ${NO_MARKER}`,
  ]);
  const control = socketPath();
  const args = configured(`listen = ["7=echo"]\ncontrol = "${control}"\n` + announce());
  return { host, args, control, file: args[1] };
}

function announce(addresses = ["203.0.113.53/32"], table = 5353): string {
  return `[announce]\naddresses = ${JSON.stringify(addresses)}\ntable = ${table}\n`;
}

/** Announces something else from the next reload on. */
async function change(file: string, announced: string): Promise<void> {
  const text = await Deno.readTextFile(file);
  await Deno.writeTextFile(file, text.replace(/\[announce\][^]*$/, announced));
}

labTest(
  "markers are there from ready to the end, and nobody else's route is touched",
  async (lab) => {
    const { host, args } = await announcing(lab);
    const others = [FOREIGN, NO_MARKER];
    // What a run that was killed has left is gone before the next one is ready.
    await host.ip(`route add table 5353 ${marker("203.0.113.99")}`);
    const appliance = await Appliance.start(host, args);
    const lines = appliance.process.stderr.all;
    const [removed, ready, announced] = [
      "announce: removed markers of an earlier run: 203.0.113.99/32 in table 5353",
      lines.find((line) => line.startsWith("ready:"))!,
      "announce: 203.0.113.53/32 in table 5353",
    ].map((line) => lines.indexOf(line));
    assert.ok(removed >= 0 && removed < ready && announced > removed, lines.join("\n"));
    await untilRoutes(host, [...others, marker("203.0.113.53")]);
    // The mirror has nothing to say about them.
    const said = () => appliance.process.stderr.all.filter((line) => /not supported/.test(line));
    assert.equal(said().filter((line) => /table 5353/.test(line)).length, 1, `${said()}`);

    await host.ip(`route del table 5353 ${marker("203.0.113.53")}`);
    await untilRoutes(host, [...others, marker("203.0.113.53")]);
    assert.ok(appliance.process.stderr.all.includes(
      "announce: another program removed the route 203.0.113.53/32 in table 5353; it was added again",
    ));
    await appliance.stop();
    assert.deepEqual(await routes(host), [...others].sort());
  },
);

labTest("a prefix in which the host has no address is named, and not announced", async (lab) => {
  const { host, args } = await announcing(lab);
  const others = [FOREIGN, NO_MARKER];
  await host.ip("address del 203.0.113.53/32 dev lo");
  const check = () =>
    host.run(["sh", "-c", [...selfCommand(), "check", ...args, "|| true"].join(" ")]);
  assert.match(
    await check(),
    /^warn announce: this host has no address in 203\.0\.113\.53\/32, .*\n +ip address add 203\.0\.113\.53\/32 dev lo$/m,
  );
  const appliance = await Appliance.start(host, args);
  await appliance.process.stderr.find(
    "announce: 203.0.113.53/32 is not announced until this host has an address in it: ip address add",
  );
  assert.deepEqual(await routes(host), [...others].sort());
  await host.ip("address add 203.0.113.53/32 dev lo");
  await untilRoutes(host, [...others, marker("203.0.113.53")]);
  assert.doesNotMatch(await check(), /warn announce/);
  await host.ip("address del 203.0.113.53/32 dev lo");
  await untilRoutes(host, others);
});

labTest(
  "a reload moves markers, and neither it nor an upgrade withdraws what stays",
  async (lab) => {
    const { host, args, control, file } = await announcing(lab);
    const others = [FOREIGN, NO_MARKER];
    const appliance = await Appliance.start(host, args);
    await untilRoutes(host, [...others, marker("203.0.113.53")]);
    const changes = host.spawn(["ip", "monitor", "route"]);
    const command = (name: string) => tegula(host, name, "--control", control);

    await command("reload");
    await command("upgrade");
    await change(file, announce(["203.0.113.53/32", "203.0.113.54/32"]));
    await command("reload");
    await untilRoutes(host, [...others, marker("203.0.113.53"), marker("203.0.113.54")]);
    await change(file, announce(["203.0.113.54/32"]));
    await command("upgrade");
    await untilRoutes(host, [...others, marker("203.0.113.54")]);
    await change(file, announce(["203.0.113.54/32"], 53));
    await command("reload");
    await untilRoutes(host, [marker("203.0.113.54")], 53);
    await untilRoutes(host, others);
    await change(file, "");
    await command("reload");
    await untilRoutes(host, [], 53);
    // A table is watched while something is announced there, and no longer.
    await host.ip(`route add table 53 ${marker("203.0.113.54")}`);
    await changes.stdout.find("53 table 53 proto", { timeoutMs: 100 }).catch(() => {});
    const seen = changes.stdout.all.filter((line) => line.includes("table 53"))
      .map((line) => line.trim().replaceAll(/ +/g, " "));
    assert.deepEqual(seen, [
      "blackhole 203.0.113.54 table 5353 proto 153",
      "Deleted blackhole 203.0.113.53 table 5353 proto 153",
      "blackhole 203.0.113.54 table 53 proto 153",
      "Deleted blackhole 203.0.113.54 table 5353 proto 153",
      "Deleted blackhole 203.0.113.54 table 53 proto 153",
      "blackhole 203.0.113.54 table 53 proto 153",
    ]);
    await appliance.stop();
  },
);

labTest("'tegula withdraw' removes what one that was killed has left", async (lab) => {
  const { host, args, file } = await announcing(lab);
  const others = [FOREIGN, NO_MARKER];
  const appliance = await Appliance.start(host, args);
  await untilRoutes(host, [...others, marker("203.0.113.53")]);
  await appliance.stop("SIGKILL");
  assert.deepEqual(await routes(host), [...others, marker("203.0.113.53")].sort());
  assert.equal(
    await tegula(host, "withdraw", ...args),
    "withdrawn: 203.0.113.53/32 in table 5353\n",
  );
  assert.deepEqual(await routes(host), [...others].sort());
  assert.equal(await tegula(host, "withdraw", ...args), "");

  // Whatever else is wrong in the file, or when there is none.
  await Deno.writeTextFile(file, "interfaces = 7\n[announce]\naddresses = 1\ntable = 53\n");
  await host.ip(`route add table 53 ${marker("203.0.113.54")}`);
  await tegula(host, "withdraw", "--config", file);
  assert.deepEqual(await routes(host, 53), []);
  for (const config of [[], ["--config", "/nowhere"], ["--config", "/dev/zero"]]) {
    await host.ip(`route add table 5353 ${marker("203.0.113.54")}`);
    await tegula(host, "withdraw", ...config);
    assert.deepEqual(await routes(host), [...others].sort());
  }
  const unprivileged = ["setpriv", "--bounding-set", "-all", ...selfCommand(), "withdraw"];
  await host.ip(`route add table 5353 ${marker("203.0.113.54")}`);
  await assert.rejects(
    host.run(unprivileged),
    /tegula: cannot withdraw 203\.0\.113\.54\/32 .*EPERM.*: this needs CAP_NET_ADMIN; run it as root$/,
  );
});
