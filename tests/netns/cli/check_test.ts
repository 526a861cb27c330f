// SPDX-License-Identifier: Apache-2.0
/** `tegula check` on the real kernel: each thing that hurts is found, with a command that mends it. */

import assert from "node:assert/strict";
import type { Finding } from "../../../cli/check.ts";
import { dirname } from "node:path";
import { selfCommand } from "../../../cli/command.ts";
import { temporaryFile } from "../config_file.ts";
import {
  Appliance,
  HOST,
  labTest,
  type Namespace,
  pair,
  peer,
  refusal,
  socketPath,
} from "../lab.ts";
import { otherProgram } from "../other_program.ts";

/** Exit status and findings of `tegula check -j`, started by the command `within`. */
async function check(
  host: Namespace,
  args: readonly string[] = [],
  within: readonly string[] = [],
): Promise<{ status: number; findings: Finding[] }> {
  const asked = ["check", "-j", "--interface", "eth0", ...args];
  const command = [...within, ...selfCommand(), ...asked].join(" ");
  const said = await host.run(["sh", "-c", `${command}; echo $?`]);
  const [findings, status] = said.trimEnd().split("\n");
  return { status: Number(status), findings: JSON.parse(findings) };
}

const OTHER_PROGRAM = otherProgram();

/** Tables of which `bypassed` and only those apply to datagrams of eth0. */
const TABLES = `
table inet bypassed_guard {
  chain input {
    type filter hook input priority 0;
    udp dport 7 drop
  }
  chain before {
    type filter hook prerouting priority raw; policy drop;
  }
  chain output {
    type filter hook output priority 0;
  }
}
table ip bypassed_translate {
  chain after {
    type nat hook postrouting priority 100;
    oifname != "eth1" masquerade
  }
}
table netdev bypassed_early {
  chain eth0 {
    type filter hook ingress device "eth0" priority 0;
    ip saddr 192.0.2.9 drop
  }
}
table netdev other_device {
  chain lo {
    type filter hook ingress device "lo" priority 0;
    udp dport 7 drop
  }
}
table inet forwarding {
  chain transit {
    type filter hook forward priority 0;
    udp dport 7 drop
  }
}
table inet without_rules {
  chain input {
    type filter hook input priority 0;
  }
}
table inet without_hook {
  chain unreached {
    udp dport 7 drop
  }
}
table ip6 other_family {
  chain input {
    type filter hook input priority 0;
    udp dport 7 drop
  }
}
`;

/** What hurts, how it shows, and whether the command that is given mends it. */
const TROUBLES: Record<
  string,
  {
    commands: string[];
    args?: string[];
    subject: string;
    says: RegExp;
    mends: boolean;
    /** The exit status: of a failure, or 8. */
    ends?: number;
  }
> = {
  "a policy rule": {
    commands: ["ip rule add priority 100 from 192.0.2.0/24 table 77"],
    subject: "policy rules",
    says: /policy rule 100, which looks up table 77/,
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
    ends: 1,
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
  "a table of nftables that hooks prerouting": {
    commands: [
      "nft add table inet guard",
      "nft 'add chain inet guard before { type filter hook prerouting priority raw; }'",
      "nft add rule inet guard before udp dport 7 drop",
    ],
    args: ["--listen", "7=echo"],
    subject: "packet filter",
    says:
      /^table inet guard hooks prerouting: its rules do not apply to frames that AF_XDP receives/,
    mends: false,
  },
  "another XDP program": {
    commands: [
      `ip link set eth0 xdp obj ${OTHER_PROGRAM} sec xdp`,
    ],
    subject: "eth0",
    says: /^XDP program other_program, id \d+, is already attached$/,
    mends: true,
    ends: 1,
  },
  "another XDP program in generic mode": {
    commands: [`ip link set eth0 xdpgeneric obj ${OTHER_PROGRAM} sec xdp`],
    subject: "eth0",
    says: /^XDP program other_program, id \d+, is already attached$/,
    mends: true,
    ends: 1,
  },
  "fewer queues than net tiles": {
    commands: [],
    args: ["--net-tiles", "3"],
    subject: "eth0",
    says: /^1 of 3 net tiles has a queue here: the others send on it through the kernel's sockets$/,
    mends: false,
  },
};

for (
  const [trouble, { commands, args, subject, says, mends, ends = 8 }] of Object.entries(TROUBLES)
) {
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
      const { status, findings } = await check(host, args);
      assert.equal(status, ends);
      const bad = findings.filter(({ verdict }) => verdict !== "ok");
      assert.equal(bad.length, 1, JSON.stringify(bad));
      assert.equal(bad[0].subject, subject);
      assert.match(bad[0].says, says);
      assert.ok(bad[0].fix !== undefined);
      if (!mends) return;
      await host.run(["sh", "-c", bad[0].fix]);
      assert.equal((await check(host, args)).status, 0);
    },
  );
}

labTest(
  "a run that check gives has what check was given, and mends it for all interfaces",
  async (lab) => {
    const it = await pair(lab);
    await lab.join(
      { namespace: it.host, name: "eth1", addresses: ["192.0.2.1/24"] },
      { namespace: it.client, name: "eth1", addresses: ["192.0.2.2/24"] },
      { queues: 2 },
    );
    const file = temporaryFile("interfaces = ['eth0']\nnet_tiles = 3\n", " and more.toml");
    const args = ["--interface", "eth1", "--listen", "7=echo@inline", "--config", `'${file}'`];
    const command = [...selfCommand(), "check", "-j", ...args].join(" ");
    const findings: Finding[] = JSON.parse(await it.host.run(["sh", "-c", `${command}; true`]));
    const fixes = findings.filter(({ says }) => says.includes("of 3 net tiles")).map(({ fix }) =>
      fix!
    );
    const fix = ["tegula run", ...args, "--net-tiles 1"].join(" ");
    assert.deepEqual(fixes.map((one) => one.replace(/ +#.*/, "")), [fix, fix]);
    const self = selfCommand().join(" ");
    const run = it.host.spawn(["sh", "-c", fix.replace("tegula", `exec ${self}`)]);
    await run.stderr.find("ready: eth0 eth1 answering 7=echo@inline");
  },
);

labTest(
  "check asks for what a dispatcher takes, where one is asked for, and for no more",
  async (lab) => {
    const { host } = await pair(lab);
    const without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
    const privileges = async (...args: string[]) =>
      (await check(host, args, without)).findings
        .filter(({ subject }) => subject === "privileges").map(({ says }) => says);
    const enough = "all that AF_XDP needs";
    assert.deepEqual(await privileges(), [enough]);
    assert.deepEqual(await privileges("--dispatcher"), [
      enough,
      "missing CAP_SYS_ADMIN: no dispatcher",
    ]);
  },
);

labTest("check names how the kernel spreads flows where Tegula does otherwise", async (lab) => {
  const { host } = await pair(lab);
  const found = async () =>
    (await check(host)).findings.filter(({ subject }) => subject === "multipath");
  await host.run(["sysctl", "-qw", "net.ipv4.fib_multipath_use_neigh=1"]);
  assert.deepEqual(await found(), [], "there is nothing to spread over");
  await host.ip("route add 203.0.113.0/24 nexthop via 198.18.0.8 nexthop via 198.18.0.9");
  const findings = await found();
  assert.deepEqual(findings.map(({ says }) => says.split(":")[0]), [
    "fib_multipath_hash_policy is 0",
    "fib_multipath_use_neigh is set",
  ]);
  for (const { fix } of findings) await host.run(["sh", "-c", fix!]);
  assert.deepEqual(await found(), []);
});

labTest("check names each table of rules that AF_XDP bypasses, and no other", async (lab) => {
  const { host } = await pair(lab);
  await host.sysctl({ "conf/all/rp_filter": 0, "conf/eth0/rp_filter": 0 });
  const file = await Deno.makeTempFile();
  await Deno.writeTextFile(file, TABLES);
  await host.run(["nft", "-f", file]);
  const { status, findings } = await check(host, ["--listen", "7=echo", "--listen", "53=dns"]);
  assert.equal(status, 8);
  const said = findings.filter(({ subject }) => subject === "packet filter");
  assert.deepEqual(said.map(({ verdict, says }) => [verdict, says.split(":")[0]]), [
    ["warn", "table inet bypassed_guard hooks input, prerouting"],
    ["warn", "table ip bypassed_translate hooks postrouting"],
    ["warn", "table netdev bypassed_early hooks ingress"],
  ]);
  for (const { fix } of said) {
    const run = / # if they matter here: tegula (run .*)$/.exec(fix!)![1];
    assert.match(run, /--listen 7=echo --listen 53=dns --provider socket$/);
    assert.match(await host.run(["sh", "-c", fix!]), /^table \S+ bypassed_/);
  }
});

/** Exit status and findings of `tegula check --config FILE`. */
async function checkFile(host: Namespace, file: string, within: readonly string[] = []) {
  const command = [...within, ...selfCommand(), "check", "-j", "--config", file].join(" ");
  const said = await host.run(["sh", "-c", `${command} 2>&1; echo $?`]);
  const [findings, status] = said.trimEnd().split("\n").slice(-2);
  return { status: Number(status), findings: JSON.parse(findings) as Finding[] };
}

const ZONE = "$ORIGIN example.org.\n$TTL 60\n@ IN SOA ns1 host 1 3600 600 86400 60\n@ NS ns1\n";
// Apps in processes of their own are another user.
Deno.chmodSync(dirname(temporaryFile("")), 0o755);
const GOOD_ZONE = temporaryFile(`${ZONE}ns1 A 198.18.0.1\n`, ".zone");
const BAD_ZONE = temporaryFile(`${ZONE}ns1 A 198.18.0.300\n`, ".zone");
const THROWS = temporaryFile('throw new TypeError("not today");', ".ts");

/** An app that imports a file whose owner alone may read it. */
const CLOSED = temporaryFile("export {};", ".js");
Deno.chmodSync(CLOSED, 0o000);
Deno.chownSync(CLOSED, 65_534, 65_534);
const IMPORTS_CLOSED = temporaryFile(`import "${CLOSED}";`, ".ts");
const IMPORTS_PACKAGE = temporaryFile('import pad from "left-pad";', ".ts");
const IMPORTS_MISSING = temporaryFile('\nawait import("./gone.ts");', ".ts");

function withZone(zone: string, options = ""): string {
  return `listen = ["53=dns"]\n[apps.dns]\nread = ["${zone}"]\n` +
    `options = { zone = "${zone}"${options} }`;
}

/** What ends a start before it attaches: what is configured, on what host, and how it ends. */
const REFUSALS: Record<string, {
  config: string;
  prepare?: (host: Namespace) => Promise<unknown>;
  within?: readonly string[];
  subject: string;
  status: number;
  says: RegExp;
}> = {
  "a key that is wrong": {
    ...{ config: 'provider = "dpdk"', subject: "configuration", status: 2 },
    says: /\.toml:3: provider: must be one of/,
  },
  "an app that there is not": {
    ...{ config: 'listen = ["7=nosuch"]', subject: "configuration", status: 2 },
    says: /there is no app 'nosuch'/,
  },
  "a capability that is missing": {
    ...{ config: 'listen = ["7=echo"]', subject: "privileges", status: 3 },
    within: ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"],
    says: /^missing CAP_NET_BIND_SERVICE/,
  },
  "an interface that there is not": {
    ...{ config: 'interfaces = ["eth9"]\nlisten = ["7=echo"]', subject: "interfaces", status: 4 },
    says: /no interface 'eth9'/,
  },
  "an MTU that does not fit": {
    ...{ config: 'listen = ["7=echo"]', subject: "interfaces", status: 4 },
    prepare: (host) => host.ip("link set eth0 mtu 9000"),
    says: /its MTU is 9000/,
  },
  "memory that may not be locked": {
    ...{ config: 'listen = ["7=echo"]', subject: "limits", status: 7 },
    within: ["prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock"]
      .concat("--inh-caps=-ipc_lock"),
    says: /^64 KiB of memory may be locked, and the frames of 1 net tile take \d+: ulimit -l \d+/,
  },
  "descriptors that are too few": {
    config: 'listen = ["7=echo@inline", "9=discard@inline"]\nnet_tiles = 64',
    ...{ subject: "limits", status: 7 },
    within: ["prlimit", "--nofile=128"],
    says: /128 open files are allowed/,
  },
  "a port of another program": {
    ...{ config: 'listen = ["7=echo"]\nprovider = "socket"', subject: "ports", status: 5 },
    prepare: (host) => peer(host, "udp", HOST, "7", "theirs"),
    says: /UDP port 7 is held by deno/,
  },
  "another XDP program": {
    ...{ config: 'listen = ["7=echo"]', subject: "XDP", status: 6 },
    prepare: (host) =>
      host.run(["ip", "link", "set", "eth0", "xdp", "obj", OTHER_PROGRAM, "sec", "xdp"]),
    says: /eth0: another program is attached \(other_program, id \d+\)/,
  },
  "an option that is wrong": {
    ...{ config: withZone(GOOD_ZONE, ", rrl_slip = 30"), subject: "app dns", status: 2 },
    says: /\.toml:6: apps\.dns\.options\.rrl_slip: must be a whole number from 0 to 10$/,
  },
  "a zone with a mistake": {
    ...{ config: withZone(BAD_ZONE), subject: "app dns", status: 2 },
    says: /^the app dns: .*\.zone: line 5: '198.18.0.300' is not an IPv4 address/,
  },
  "an app that throws": {
    ...{ config: `listen = ["7=${THROWS}"]`, subject: `app ${THROWS}`, status: 2 },
    says: /not today/,
  },
  "an app that imports a package": {
    ...{
      config: `listen = ["7=${IMPORTS_PACKAGE}"]`,
      subject: `app ${IMPORTS_PACKAGE}`,
      status: 2,
    },
    says: /\.ts:1:17: it imports the package left-pad, .*: npx esbuild \S+\.ts --bundle /,
  },
  "an app that imports what is missing": {
    ...{
      config: `listen = ["7=${IMPORTS_MISSING}"]`,
      subject: `app ${IMPORTS_MISSING}`,
      status: 2,
    },
    says: /Module not found "file:\S+gone\.ts"/,
  },
  "an app that imports what may not be read": {
    ...{ config: `listen = ["7=${IMPORTS_CLOSED}"]`, subject: `app ${IMPORTS_CLOSED}`, status: 2 },
    within: ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
      .concat("--inh-caps=-dac_override,-dac_read_search"),
    says: /\.ts:1:8: it imports \S+\.js, which cannot be read: permission denied/,
  },
};

for (const [what, { config, prepare, within = [], ...refused }] of Object.entries(REFUSALS)) {
  labTest(
    `check --config and run find ${what} before XDP is attached, and say the same`,
    async (lab) => {
      const { host } = await pair(lab);
      await prepare?.(host);
      const interfaces = config.includes("interfaces") ? "" : 'interfaces = ["eth0"]\n';
      const file = temporaryFile(`${interfaces}control = "none"\n${config}`, ".toml");
      const { status, findings } = await checkFile(host, file, within);
      assert.equal(status, refused.status, JSON.stringify(findings));
      const failed = findings.find(({ verdict }) => verdict === "fail")!;
      assert.equal(failed.subject, refused.subject);
      assert.match(failed.says, refused.says);
      assert.doesNotMatch(failed.says, /\w+Error:/);
      const start = host.spawn([...within, ...selfCommand(), "run", "--config", file]);
      const { code, said } = await refusal(start);
      assert.equal(code, refused.status);
      assert.equal(said, `tegula: ${failed.says}`);
      assert.ok(!start.stderr.all.some((line) => line.startsWith("attaching")));
    },
  );
}

labTest(
  "check --config tells of each phase, and of what a reload is handed by the one that runs",
  async (lab) => {
    const { host } = await pair(lab);
    await host.sysctl({ "conf/all/rp_filter": 0, "conf/eth0/rp_filter": 1 });
    const app = temporaryFile('export const answer = (request) => "one";', ".ts");
    const file = temporaryFile(
      `interfaces = ["eth0"]\ncontrol = "${socketPath()}"\n` +
        withZone(GOOD_ZONE).replace('["53=dns"]', `["53=dns", "7=${app}@inline", "9=${app}*2"]`),
      ".toml",
    );
    const phases = "configuration, control socket, privileges, interfaces, limits, ports, XDP"
      .split(", ");
    const check = async () => {
      const { status, findings } = await checkFile(host, file);
      assert.equal(status, 8, JSON.stringify(findings));
      const good = findings.filter(({ verdict }) => verdict === "ok");
      assert.deepEqual(good.map(({ subject }) => subject), [...phases, "app dns", `app ${app}`]);
      assert.match(
        good.find(({ subject }) => subject === "app dns")!.says,
        /made; serves zone example\.org/,
      );
      const others = findings.filter(({ verdict }) => verdict !== "ok");
      assert.deepEqual(others.map(({ verdict }) => verdict), ["warn", "warn"]);
      assert.match(others[0].says, /\.ts:1:\d+: TS7006 .*'request' implicitly/);
      assert.match(others[1].says, /rp_filter is strict/);
      assert.deepEqual(await checkFile(host, `${file} --quiet`), { status: 0, findings: [] });
    };
    await check();
    await Appliance.start(host, ["--config", file]);
    await check();
  },
);
