// SPDX-License-Identifier: Apache-2.0
/** Compares the interfaces of `tegula show`, with its own mirror and of a running tegula, with `ip -j address`. */

import assert from "node:assert/strict";
import { selfCommand } from "../../../cli/command.ts";
import { Appliance, ECHO, eventually, labTest, pair, socketPath } from "../lab.ts";

/** What `ip` tells besides, of interfaces and of addresses: queues, groups, lifetimes. */
const LEFT_OUT = ["qdisc", "group", "txqlen", "link_netnsid", "link_index"];
const LEFT_OUT_OF_ADDRESSES = ["valid_life_time", "preferred_life_time"];

/** States of links, which the kernel comes to after the commands that they follow from. */
const CARRIERS = [["eth0", "UP"], ["odd", "UP"], ["other", "UP"], ["lone", "LOWERLAYERDOWN"]];

type Entry = Record<string, unknown>;

function without(entry: Entry, names: readonly string[]): Entry {
  return Object.fromEntries(Object.entries(entry).filter(([name]) => !names.includes(name)));
}

labTest(
  "interfaces have each field that ip gives them, with broadcasts and labels",
  async (lab) => {
    const { host } = await pair(lab);
    await host.batch([
      "address add 192.0.2.1/24 brd + label eth0:one dev eth0",
      "address add 192.0.2.2/24 dev eth0",
      "address add 198.51.100.1 peer 198.51.100.2 dev eth0",
      "link add odd type veth peer name other",
      "link set odd broadcast 02:00:00:00:00:ff",
      "link set odd up",
      "link set other up",
      "link add lone type veth peer name lones",
      "link set lone up dynamic on trailers off allmulticast on arp off",
      "link add near type veth peer name far",
    ]);
    const told: Entry[] = JSON.parse(await host.ip("-j -4 address show"));
    const all = await eventually("all carriers", async () => {
      const all: Entry[] = JSON.parse(await host.ip("-j link show"));
      const isTold = ([name, state]: string[]) =>
        all.some(({ ifname, operstate }) => ifname === name && operstate === state);
      return CARRIERS.every(isTold) ? all : undefined;
    });
    const expected = all.map((link) => {
      const { addr_info } = told.find(({ ifindex }) => ifindex === link.ifindex) ?? {};
      const addresses = (addr_info ?? []) as Entry[];
      return {
        ...without(link, [...LEFT_OUT, "linkmode"]),
        addr_info: addresses.map((each) => without(each, LEFT_OUT_OF_ADDRESSES)),
      };
    });
    const control = socketPath();
    await Appliance.start(host, [...ECHO, "--control", control]);
    for (const live of [[], ["--control", control]]) {
      const command = [...selfCommand(), "show", "interfaces", ...live];
      assert.deepEqual(JSON.parse(await host.run([...command, "-j"])), expected);
      const text = await host.run(command);
      assert.match(text, /inet 192\.0\.2\.1\/24 brd 192\.0\.2\.255 scope global eth0:one\n/);
      assert.match(text, /inet 192\.0\.2\.2\/24 scope global secondary eth0\n/);
      assert.match(text, /lone@lones: <NO-CARRIER,.*,NOARP,.*,DYNAMIC,NOTRAILERS,UP,M-DOWN> /);
      assert.match(text, /lones@lone: <BROADCAST,MULTICAST> /);
      assert.match(text, /link\/ether \S+ brd 02:00:00:00:00:ff/);
    }
  },
);
