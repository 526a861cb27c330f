/** `tegula check` on the real kernel: each thing that hurts is found, with a command that mends it. */

import assert from "node:assert/strict";
import type { Finding } from "../../cli/check_findings.ts";
import { selfCommand } from "../../cli/self.ts";
import { labTest, type Namespace, pair } from "./lab.ts";

/** Exit status and findings of `tegula check -j`. */
async function check(host: Namespace): Promise<{ status: number; findings: Finding[] }> {
  const command = [...selfCommand(), "check", "-j", "--interface", "eth0"].join(" ");
  const said = await host.run(["sh", "-c", `${command}; echo $?`]);
  const [findings, status] = said.trimEnd().split("\n");
  return { status: Number(status), findings: JSON.parse(findings) };
}

/** What hurts, how it shows, and whether the command that is given mends it. */
const TROUBLES: Record<
  string,
  { commands: string[]; subject: string; says: RegExp; mends: boolean }
> = {
  "a policy rule": {
    commands: ["ip rule add priority 100 from 192.0.2.0/24 table 77"],
    subject: "policy rules",
    says: /policy rule 100, which looks into table 77/,
    mends: true,
  },
  "a route that cannot be followed": {
    commands: ["ip route add 203.0.113.0/24 via inet6 fe80::1 dev eth0"],
    subject: "routes",
    says: /next hops by IPv6/,
    mends: false,
  },
  "an MTU that does not fit": {
    commands: ["ip link set eth0 mtu 9000"],
    subject: "eth0",
    says: /its MTU is 9000/,
    mends: true,
  },
  "an interface that is down": {
    commands: ["ip link set eth0 down"],
    subject: "eth0",
    says: /is down/,
    mends: true,
  },
  "a strict reverse path filter": {
    commands: ["sysctl -qw net.ipv4.conf.eth0.rp_filter=1"],
    subject: "eth0",
    says: /rp_filter is strict/,
    mends: true,
  },
  "an interface without an address": {
    commands: ["ip address flush dev eth0"],
    subject: "eth0",
    says: /no IPv4 address/,
    mends: false,
  },
};

for (const [trouble, { commands, subject, says, mends }] of Object.entries(TROUBLES)) {
  labTest(
    `check finds ${trouble}${mends ? ", and the command that it gives mends it" : ""}`,
    async (lab) => {
      const { host } = await pair(lab);
      await host.run([
        "sh",
        "-c",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0",
      ]);
      const before = await check(host);
      assert.equal(before.status, 0, JSON.stringify(before.findings));
      for (const command of commands) await host.run(["sh", "-c", command]);
      const { status, findings } = await check(host);
      assert.equal(status, 1);
      const bad = findings.filter(({ verdict }) => verdict !== "ok");
      assert.equal(bad.length, 1, JSON.stringify(bad));
      assert.equal(bad[0].subject, subject);
      assert.match(bad[0].says, says);
      assert.ok(bad[0].fix !== undefined);
      if (!mends) return;
      await host.run(["sh", "-c", bad[0].fix]);
      assert.equal((await check(host)).status, 0);
    },
  );
}
