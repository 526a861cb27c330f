// SPDX-License-Identifier: Apache-2.0
/** The dns app over UDP and TCP as its clients see it: dig, and unbound, a resolver. */

import assert from "node:assert/strict";
import { parseZoneFile } from "../../../apps/dns/zone.ts";
import { configured, temporaryFile } from "../config_file.ts";
import { Appliance, eventually, HOST, type Lab, labTest, type Namespace, pair } from "../lab.ts";

const ORIGIN = "example.org";
/** Sets of records of all sizes, up to what TCP holds at most. */
const SETS = [1, 4, 5, 6, 60, 200, 260];
/** Records of the types that are kept as bytes, and of a type that nobody knows, as dig writes them too. */
const RAW = [
  ["svc", "HTTPS", '1 . alpn="h2,h3" port=8443 ipv4hint=198.18.0.60'],
  ["_dns", "SVCB", '1 ns1.example.org. alpn="dot"'],
  ["sub", "DS", "60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"],
  ["_443._tcp", "TLSA", `3 1 1 ${"D2ABDE24".repeat(8)}`],
  ["ssh", "SSHFP", `4 2 ${"0D37EE6B".repeat(8)}`],
  ["new", "TYPE65280", "\\# 4 0A000001"],
];
const ZONE = `$ORIGIN ${ORIGIN}.
$TTL 300
@ IN SOA ns1 host 1 3600 600 86400 60
@ NS ns1
ns1 A ${HOST}
www CNAME ns1
mail MX 10 ns1
*.wild TXT "any"
sub NS ns.elsewhere.example.
${RAW.map((record) => record.join(" ")).join("\n")}
${
  SETS.map((count) =>
    Array.from({ length: count }, (_, i) => `big${count} TXT "${`${i}`.padEnd(230, "x")}"`)
      .join("\n")
  ).join("\n")
}
`;

/** The appliance with the zone, over TCP at its address too. */
async function serving(lab: Lab, options = "") {
  const { host, client } = await pair(lab);
  const zone = temporaryFile(ZONE, ".zone");
  Deno.chmodSync(zone, 0o644);
  const config = `listen = ["53=dns"]\n[apps.dns]\ntcp = ["${HOST}"]\nread = ["${zone}"]\n` +
    `options = { zone = "${zone}"${options} }`;
  const args = configured(config);
  const appliance = await Appliance.start(host, args);
  return { host, client, appliance, zone, args };
}

/** What dig says, in short. */
async function dig(client: Namespace, ...args: string[]): Promise<string[]> {
  const said = await client.run(["dig", `@${HOST}`, "+short", "+time=5", "+tries=2", ...args]);
  return said.split("\n").filter((line) => line !== "").sort();
}

labTest("dig asks again over TCP for what is truncated, and gets all of it", async (lab) => {
  const { client } = await serving(lab);
  for (const count of SETS) {
    const name = `big${count}.${ORIGIN}`;
    const all = await dig(client, name, "TXT");
    assert.equal(all.length, count, name);
    assert.deepEqual(await dig(client, "+tcp", name, "TXT"), all);
  }
  assert.deepEqual(
    await dig(client, "+tcp", "+keepopen", `www.${ORIGIN}`, "A", `mail.${ORIGIN}`, "MX"),
    [
      HOST,
      "ns1.example.org.",
      "10 ns1.example.org.",
    ].sort(),
  );
});

labTest("a resolver gets every name of the zone", async (lab) => {
  const { client } = await serving(lab);
  const config = temporaryFile(`server:
  interface: 127.0.0.1@5335
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "/tmp"
  module-config: "iterator"
  qname-minimisation: no
stub-zone:
  name: "${ORIGIN}"
  stub-addr: ${HOST}
remote-control:
  control-enable: no
`);
  const unbound = client.spawn(["unbound", "-d", "-c", config]);
  try {
    const resolve = (...what: string[]) =>
      client.run("dig @127.0.0.1 -p 5335 +tries=1 +time=10 +tcp".split(" ").concat(what));
    await eventually("the resolver", async () => {
      const said = await resolve(ORIGIN, "SOA").catch(() => "");
      return said.includes("status: NOERROR") || undefined;
    });
    // What is delegated is asked elsewhere.
    const records = parseZoneFile(ZONE).filter(({ name, type }) =>
      name === ORIGIN || type !== "NS"
    );
    const sets = Map.groupBy(records, ({ name, type }) => `${name.replace("*", "some")} ${type}`);
    for (const [set, { length }] of sets) {
      const [name, type] = set.replace("UNKNOWN_", "TYPE").split(" ");
      const said = await resolve(name, type);
      assert.match(said, /status: NOERROR/, set);
      assert.match(said, new RegExp(`ANSWER: ${length},`), set);
    }
    for (const [name, type, data] of RAW) {
      assert.equal(await resolve("+short", "+nosplit", `${name}.${ORIGIN}`, type), `${data}\n`);
    }
  } finally {
    unbound.kill("SIGTERM");
    await unbound.ended();
  }
});

labTest("a limited client asks over TCP, which is not limited", async (lab) => {
  const { client } = await serving(lab, ", rrl_ratelimit = 1, rrl_slip = 1");
  for (let i = 0; i < 20; i++) {
    assert.deepEqual(await dig(client, `ns1.${ORIGIN}`, "A"), [HOST]);
  }
});

labTest(
  "each connection has its answer during reloads, and the new zone is answered",
  async (lab) => {
    const { client, appliance, zone } = await serving(lab);
    const { stderr } = appliance.process;
    for (let i = 2; i < 5; i++) {
      Deno.writeTextFileSync(zone, ZONE.replace(" host 1 ", ` host ${i} `));
      const from = stderr.all.length;
      appliance.process.kill("SIGHUP");
      const reloaded = stderr.find("reloaded: ", { from });
      let isOver = false;
      reloaded.then(() => isOver = true);
      while (!isOver) {
        const said = await dig(client, "+tcp", ORIGIN, "SOA");
        assert.match(said.join("\n"), /^ns1\.[^\n]*$/);
      }
      await reloaded;
      const [soa] = await dig(client, "+tcp", ORIGIN, "SOA");
      assert.equal(soa.split(" ")[2], `${i}`);
    }
  },
);
