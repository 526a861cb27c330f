// SPDX-License-Identifier: Apache-2.0
/** `tegula explain` on the real kernel: each kind of decision in words. */

import assert from "node:assert/strict";
import { selfCommand } from "../../../cli/command.ts";
import { Appliance, labTest, pair } from "../lab.ts";

labTest("explain tells route, hop, neighbour, headers, and why not otherwise", async (lab) => {
  const { host } = await pair(lab);
  const [{ address: own }] = JSON.parse(await host.ip("-j link show dev eth0"));
  await host.batch([
    "route add default via 198.18.0.9 metric 50",
    "route add default via 198.18.0.8 metric 100",
    "neighbour add 198.18.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable",
    "route add blackhole 203.0.113.0/24",
    "route add 192.0.2.0/24 nexthop via 198.18.0.9 weight 2 nexthop via 198.18.0.8",
  ]);
  async function explain(...args: string[]) {
    const said = await host.run([...selfCommand(), "explain", ...args, "-j"]);
    const { outcome, steps } = JSON.parse(said) as {
      outcome: { type: string };
      steps: { about: string; says: string }[];
    };
    const about = (what: string) =>
      steps.filter((step) => step.about === what).map(({ says }) => says).join("\n");
    return { type: outcome.type, about };
  }

  const away = await explain("8.8.8.8", "--sport", "53", "--dport", "4242");
  assert.equal(away.type, "unicast");
  assert.equal(away.about("route"), "default via 198.18.0.9 dev eth0 metric 50");
  assert.match(away.about("not taken"), /via 198\.18\.0\.8 .*: metric 50 is lower than 100/);
  assert.match(
    away.about("neighbour"),
    /lladdr 02:00:00:00:00:09 REACHABLE, confirmed \d+\.\d s ago/,
  );
  const headers = `${own} > 02:00:00:00:00:09 0800, IPv4 198.18.0.1 > 8.8.8.8, UDP 53 > 4242`;
  assert.ok(away.about("headers").startsWith(headers), away.about("headers"));

  assert.match(away.about("source"), /^198\.18\.0\.1: chosen as the kernel does/);
  const given = await explain("8.8.8.8", "--source", "198.18.0.1");
  assert.equal(given.about("source"), "198.18.0.1: as requested");
  const foreign = await explain("8.8.8.8", "--source", "198.18.7.7");
  assert.equal(foreign.about("source"), "198.18.7.7: is no address of this host");
  const onLink = await explain("198.18.0.77");
  assert.equal(onLink.about("source"), "198.18.0.1: the route prefers it (src)");
  const itself = await explain("198.18.0.1");
  assert.match(itself.about("source"), /^198\.18\.0\.1: the route prefers it/);

  const hole = await explain("203.0.113.7");
  assert.equal(hole.type, "blackhole");
  assert.match(hole.about("not taken"), /203\.0\.113\.0\/24 is longer/);
  assert.match(hole.about("dropped"), /^tx_drop_blackhole: .* 'ip route show table all to match/);

  const seen = new Set<string>();
  for (let port = 1; seen.size < 2; port++) {
    assert.ok(port < 40, "flows take both hops");
    const { about } = await explain("192.0.2.1", "--dport", `${port}`);
    seen.add(
      /^via (\S+) dev eth0 weight [12], [12] of 2, by the flow's hash/.exec(about("hop"))![1],
    );
  }
  assert.match((await explain("198.18.0.77")).about("neighbour"), /is unknown: it is solicited/);
  assert.match((await explain("198.18.0.1")).about("headers"), /by the kernel's socket/);
  assert.match((await explain("0.0.0.0")).about("route"), /^no lookup/);
  await host.batch([
    "route append default via 198.18.0.7 metric 50",
    "neighbour replace 198.18.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale",
    "neighbour replace 198.18.0.9 dev eth0 nud failed",
    "nexthop add id 1 via 198.18.0.9 dev eth0",
    "nexthop add id 2 via 198.18.0.8 dev eth0",
    "nexthop add id 3 group 1/2",
    "route replace 192.0.2.0/24 nhid 3",
  ]);
  const other = await explain("8.8.8.8");
  assert.equal(other.about("route"), "default via 198.18.0.7 dev eth0 metric 50");
  assert.match(other.about("not taken"), /via 198\.18\.0\.9 .*: its gateway does not answer/);
  assert.match(
    (await explain("198.18.0.9")).about("neighbour"),
    / FAILED: it did not answer; it is solicited again/,
  );
  const passedOver = /^via 198.18.0.8 .*because via 198.18.0.9 dev eth0 does not answer$/;
  for (let port = 1, said = ""; !passedOver.test(said); port++) {
    assert.ok(port < 40, said);
    said = (await explain("192.0.2.1", "--dport", `${port}`)).about("hop");
  }
  await host.ip("link set eth0 down");
  assert.equal((await explain("8.8.8.8")).about("route"), "no route matches");
});

labTest("explain tells which interfaces the running one sends by", async (lab) => {
  const { host } = await pair(lab);
  await host.batch([
    "link add eth9 type veth peer name eth8",
    "link set eth9 up",
    "link set eth8 up",
    "address add 198.18.9.1/24 dev eth9",
    "neighbour add 198.18.9.7 lladdr 02:00:00:00:00:09 dev eth9",
  ]);
  await Appliance.start(host, ["--interface", "eth0", "--listen", "7=echo"]);
  const explain = [...selfCommand(), "explain", "198.18.9.7"];
  assert.match(
    await host.run(explain),
    /headers +\S+ > 02:00:00:00:00:09 0800, IPv4 198\.18\.9\.1/,
  );
  assert.match(await host.run([...explain, "--live"]), /headers +by the kernel's socket/);
});
