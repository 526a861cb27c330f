// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula run` without an interface: it takes those that the default route goes by, and no other.
 */

import { strict as assert } from "node:assert";
import { selfCommand } from "../../../cli/command.ts";
import { configured, temporaryFile } from "../config_file.ts";
import {
  Appliance,
  ask,
  labTest,
  type Namespace,
  pair,
  refusal,
  secondLink,
  xdpProgram,
} from "../lab.ts";

const ARGS = ["--listen", "7=echo"];

/** Asserts that it is refused with status 2, in words that match. */
async function refused(host: Namespace, said: RegExp, args = ARGS): Promise<void> {
  const refusedBy = await refusal(Appliance.launch(host, args).process);
  assert.equal(refusedBy.code, 2);
  assert.match(refusedBy.said, said);
}

/** What `tegula check` says of it. */
async function checked(host: Namespace): Promise<string | undefined> {
  const said = await host.run(["sh", "-c", `${selfCommand().join(" ")} check; true`]);
  return said.split("\n").find((line) => line.includes("without --interface"));
}

labTest(
  "without an interface that of the default route is taken, and the log says so",
  async (lab) => {
    const it = await pair(lab);
    const { host, asker } = it;
    await secondLink(lab, it);
    await host.ip("route add default via 192.0.2.2 dev eth1 metric 5");
    const appliance = await Appliance.start(host, ARGS);
    const { stderr } = appliance.process;
    await stderr.find("no interface is named: taking eth1, where the default route goes");
    await stderr.find("ready: eth1 answering 7=echo");
    assert.equal(await xdpProgram(host, "eth0"), undefined);
    assert.ok(await xdpProgram(host, "eth1"));
    assert.equal((await ask(asker, { source: "192.0.2.2", target: "192.0.2.1" })).text, "hello");
    assert.equal((await appliance.stop()).code, 0);
    assert.match(await checked(host) ?? "", /^ok .*: eth1, where the default route goes$/);
  },
);

labTest("a default route of several hops gives several interfaces", async (lab) => {
  const it = await pair(lab);
  await secondLink(lab, it);
  const hops = "nexthop via 198.18.0.2 dev eth0 nexthop via 192.0.2.2 dev eth1";
  await it.host.ip(`route add default ${hops}`);
  const appliance = await Appliance.start(it.host, ARGS);
  await appliance.process.stderr.find("no interface is named: taking eth0, eth1, where");
  await appliance.process.stderr.find("ready: eth0 eth1 answering");
});

labTest(
  "without a default route, or where it goes by no Ethernet, one has to be named",
  async (lab) => {
    const { host } = await pair(lab);
    await host.ip("route add default via 198.18.0.2 dev eth0 table 100");
    await host.ip("route add unreachable default metric 9");
    const wanted = "no interface: give at least one --interface NAME; 'ip link' lists them";
    await refused(host, new RegExp(`${wanted} \\(there is no default route\\)`));
    assert.match(await checked(host) ?? "", /: there is no default route$/);
    await host.ip("tuntap add tun0 mode tun");
    await host.ip("link set tun0 up");
    await host.ip("route add default dev tun0");
    await refused(
      host,
      /\(AF_XDP does not work where the default route goes: tun0: its packets/,
    );
    await host.ip("route add default via 198.18.0.2 dev eth0 metric 10");
    await refused(
      host,
      /no interface: .* lists them$/,
      configured("").with(1, temporaryFile("listen = ['7=echo']", ".toml")),
    );
  },
);
