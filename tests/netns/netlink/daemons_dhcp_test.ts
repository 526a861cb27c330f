// SPDX-License-Identifier: Apache-2.0
/**
 * A host as it is in a cloud: systemd-networkd configures its interface by DHCP while Tegula waits for that,
 * and Tegula decides about addresses as that kernel does (docs/kernel.md, Routes).
 */

import { strict as assert } from "node:assert";
import { isDeepStrictEqual } from "node:util";
import { selfCommand } from "../../../cli/command.ts";
import { Appliance, ask, Client, eventually, labTest, type Namespace } from "../lab.ts";

const GATEWAY = "192.0.2.161";
const LEASED = "192.0.2.165";

/** Of systemd-networkd: without udev, which it would wait for where /sys can be written. */
const NETWORK = `[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
[DHCPv4]
RouteMetric=300
`;
const NETWORKD = `mount -o remount,ro /sys
mount -t tmpfs none /run
mkdir -p /run/systemd/network
install -m 644 "$1" /run/systemd/network/10-eth0.network
exec /lib/systemd/systemd-networkd`;

/** Gives out one address. */
const DHCP_SERVER = [
  ..."dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root --pid-file=".split(" "),
  ..."--interface=eth0 --bind-interfaces --no-ping --dhcp-leasefile=/run/leases".split(" "),
  `--dhcp-range=${LEASED},${LEASED},255.255.255.224,1h`,
  `--dhcp-option=3,${GATEWAY}`,
];

/** What becomes of packets, in the words of `ip route get`. */
const VECTORS: Readonly<Record<string, Record<string, string>>> = {
  "127.0.0.1": { type: "local", dev: "lo", prefsrc: "127.0.0.1" },
  [LEASED]: { type: "local", dev: "lo", prefsrc: LEASED },
  "192.0.2.191": { type: "broadcast", dev: "eth0", prefsrc: LEASED },
  [GATEWAY]: { type: "unicast", dev: "eth0", prefsrc: LEASED },
  "192.0.2.170": { type: "unicast", dev: "eth0", prefsrc: LEASED },
  "8.8.8.8": { type: "unicast", gateway: GATEWAY, dev: "eth0", prefsrc: LEASED },
};

async function assertDecides(
  host: Namespace,
  control: string,
  destination: string,
  expected: object,
) {
  const command = [...selfCommand(), "route", "get", destination, "-j", "--control", control];
  let decision: object = {};
  await eventually("what it was just told to be mirrored", async () => {
    const [{ dst: _dst, mtu: _mtu, ...rest }] = JSON.parse(await host.run(command));
    decision = rest;
    return isDeepStrictEqual(decision, expected) ? true : undefined;
  }).catch(() => {});
  assert.deepEqual(decision, expected, destination);
  const [{ type = "unicast", gateway, dev, prefsrc }] = JSON.parse(
    await host.ip(`-j route get ${destination}`),
  );
  assert.deepEqual({ type, ...(gateway && { gateway }), dev, prefsrc }, expected, destination);
}

labTest(
  "a host that systemd-networkd configures by DHCP is served, as it is in a cloud",
  async (lab) => {
    const [host, cloud] = [await lab.namespace("host"), await lab.namespace("cloud")];
    await lab.join(
      { namespace: host, name: "eth0" },
      { namespace: cloud, name: "eth0", addresses: [`${GATEWAY}/27`] },
    );
    const server = cloud.spawn(DHCP_SERVER);
    const control = `${await Deno.makeTempDir()}/control.sock`;
    const run = ["--interface", "eth0", "--listen", "7=echo", "--control", control];
    const appliance = Appliance.launch(host, run);
    await appliance.process.stderr.find("eth0: waiting, it has no IPv4 address");

    const file = await Deno.makeTempFile();
    await Deno.writeTextFile(file, NETWORK);
    const networkd = host.spawn(["sh", "-ec", NETWORKD, "sh", file]);
    await eventually("the default route", async () => {
      return /default via/.test(await host.ip("route show")) ? true : undefined;
    }, { timeoutMs: 60_000 }).catch((error) => {
      const said = [...networkd.stderr.all, ...server.stderr.all];
      throw new Error(`${error.message}:\n${said.join("\n")}`);
    });
    await appliance.ready();
    for (const [destination, expected] of Object.entries(VECTORS)) {
      await assertDecides(host, control, destination, expected);
    }
    // As kernels before 5.14 had it by themselves.
    await host.ip(
      "route add broadcast 192.0.2.160 dev eth0 table local proto kernel scope link src " + LEASED,
    );
    await assertDecides(host, control, "192.0.2.160", { ...VECTORS["192.0.2.191"] });
    const { text, from } = await ask(new Client(cloud), { source: GATEWAY, target: LEASED });
    assert.deepEqual({ text, from }, { text: "hello", from: `${LEASED}:7` });
  },
);
