// SPDX-License-Identifier: Apache-2.0
/** The load balancer with real name servers behind it, and dnsperf in front. */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import packet from "dns-packet";
import { mustRun } from "../bare_root.ts";
import { configured, temporaryFile } from "../config_file.ts";
import { Appliance, ask, eventually, growth, HOST, labTest, type Namespace, peer } from "../lab.ts";
import { nameServer, withServers, ZONE } from "../name_servers.ts";
import type { LabProcess } from "../../../demo/lab.ts";
import { addressOf, type Asked, NAMES } from "./dns_asker.ts";

const PROBE = packet.encode({ type: "query", questions: [{ name: "example.org", type: "SOA" }] });
/** Questions a second, and for how many seconds, while a server goes and another one comes. */
const [RATE, SECONDS] = [1000, 8];
/** So many more have their answers compared with what the zone has. */
const CHECKED_RATE = 200;
/** How soon a server that went is noticed: two probes of 0.2 s and the one that was under way. */
const NOTICED_SECONDS = 0.6;
const INSTANCES = 2;
/** Where the metrics are. */
const METRICS = "127.0.0.1:9464";

function configuration(backends: readonly string[]): string {
  return `interfaces = ["eth0", "eth1"]
metrics = "${METRICS}"
listen = ["53=balance*${INSTANCES}"]
[apps.balance]
own_ports = ["20000-20063"]
send_to = ["198.18.5.0/24"]
state = "1M"
[apps.balance.options]
backends = ${JSON.stringify(backends.map((address) => `${address}:53`))}
probe = "${PROBE.toString("hex")}"
probe_seconds = 0.2
probe_failures = 2
`;
}

/** How many requests a backend was sent and has not answered. */
async function unanswered(host: Namespace, backend: string): Promise<number> {
  const text = await host.run(["curl", "--silent", "--fail", `http://${METRICS}/metrics`]);
  const sum = (of: string) => {
    const pattern = new RegExp(`name="balance.${of}",backend="${backend}"} (\\d+)`, "g");
    const values = [...text.matchAll(pattern)].map(([, value]) => Number(value));
    assert.equal(values.length, INSTANCES, text);
    return values.reduce((sum, value) => sum + value);
  };
  return sum("requests") - sum("answers");
}

/** Asks for names beside dnsperf, which looks at nothing but the number and the response code. */
function checker(client: Namespace): LabProcess {
  const program = fileURLToPath(new URL("./dns_asker.ts", import.meta.url));
  const args = [HOST, CHECKED_RATE, SECONDS].map(String);
  return client.spawn([Deno.execPath(), "run", "--allow-net", "--no-check", program, ...args]);
}

labTest("of three name servers one is killed and one is added, and answers go on", async (lab) => {
  const { host, client, servers, addresses } = await withServers(lab, 4);
  const names = Array.from({ length: NAMES }, (_, i) => `n${i} A ${addressOf(i)}\n`);
  const zone = temporaryFile(Deno.readTextFileSync(ZONE) + names.join(""));
  const running = await Promise.all(
    addresses.map((address) => nameServer(servers, address, ["example.org", zone])),
  );
  const [path] = configured("").slice(-1);
  Deno.writeTextFileSync(path, configuration(addresses.slice(0, 3)));
  const appliance = await Appliance.start(host, ["--config", path]);
  await eventually("an answer", async () => {
    const said = await client.run(["dig", `@${HOST}`, "+tries=1", "+timeout=1", "web.example.org"])
      .catch(() => "");
    return /198\.18\.0\.81/.test(said) || undefined;
  });
  const questions = temporaryFile(
    ["web.example.org A", "www.example.org A", "example.org MX", "mail.example.org AAAA"].join(
      "\n",
    ),
  );
  // As many may be out as are lost: else dnsperf would ask less.
  const most = RATE * SECONDS;
  const command =
    `dnsperf -s ${HOST} -d ${questions} -l ${SECONDS} -c 30 -q ${most} -t 5 -Q ${RATE} -O suppress=timeout`;
  const killed = "198.18.5.1:53";
  const unansweredBefore = await unanswered(host, killed);
  const dnsperf = client.spawn(command.split(" "));
  const checking = checker(client);
  await checking.stdout.find("asking");
  const before = await appliance.counters();
  await eventually("load", async () => {
    return growth(before, await appliance.counters(), "rx_frames") > RATE || undefined;
  });
  running[0].kill("SIGKILL");
  for (const instance of ["balance.1", "balance.2"]) {
    await appliance.process.stderr.find(`${instance}: ${killed} is down`);
  }
  Deno.writeTextFileSync(path, configuration(addresses.slice(1)));
  appliance.process.kill("SIGHUP");
  assert.match(await appliance.process.stderr.find("reload"), /^reloaded: /);
  assert.equal((await dnsperf.ended()).code, 0);
  const said = dnsperf.stdout.all.join("\n");
  const [, completed] = /Queries completed: +(\d+)/.exec(said) ?? [];
  const [, lost] = /Queries lost: +(\d+)/.exec(said) ?? [];
  assert.match(said, /Response codes: +NOERROR \d+ \(100\.00%\)/, said);
  assert.ok(Number(completed) > RATE * SECONDS / 2, said);
  assert.ok(Number(lost) <= RATE * NOTICED_SECONDS, said);
  const checked: Asked = JSON.parse(await checking.stdout.find("{"));
  assert.equal(checked.wrong, 0, checked.examples.join("\n"));
  assert.equal(checked.questions, CHECKED_RATE * SECONDS);
  const lostOfChecked = checked.questions - checked.answered;
  assert.ok(lostOfChecked <= CHECKED_RATE * NOTICED_SECONDS, JSON.stringify(checked));
  // Nothing else than what was sent to the one that was killed.
  const unansweredNow = await unanswered(host, killed);
  assert.equal(Number(lost) + lostOfChecked, unansweredNow - unansweredBefore, said);
});

labTest("a drained backend keeps its sessions over a reload and gets no new one", async (lab) => {
  const { host, asker, servers, addresses } = await withServers(lab, 2);
  const [drained, other] = addresses.map((address) => `${address}:53`);
  const backends = await Promise.all(
    addresses.map((address) => peer(servers, "witness", address, "53")),
  );
  const config = (...backends: string[]) =>
    `interfaces = ["eth0", "eth1"]
listen = ["53=balance"]
[apps.balance]
own_ports = ["20000-20063"]
send_to = ["198.18.5.0/24"]
state = "1M"
[apps.balance.options]
backends = [${backends}]
`;
  const path = temporaryFile(config(`"${drained}"`, `"${other}"`), ".toml");
  const appliance = await Appliance.start(host, ["--config", path]);
  const reload = async (...backends: string[]) => {
    const from = appliance.process.stderr.all.length;
    Deno.writeTextFileSync(path, config(...backends));
    appliance.process.kill("SIGHUP");
    assert.match(await appliance.process.stderr.find("reload", { from }), /^reloaded: /);
  };
  /** Asks once from each port. Returns what each of the two backends received for that. */
  const received = async (ports: readonly number[]): Promise<[string[], string[]]> => {
    const before = backends.map(({ stdout }) => stdout.all.length);
    for (const port of ports) {
      const { text } = await ask(asker, { port: 53, sourcePort: port, payload: `${port}` });
      assert.equal(text, `${port}`);
    }
    const all = () => backends.map(({ stdout }, i) => stdout.all.slice(before[i]));
    await eventually(
      "all that backends say",
      () => Promise.resolve(all().flat().length >= ports.length || undefined),
    );
    const [first, second] = all();
    return [first, second];
  };
  const [present, later] = [5000, 6000].map((first) =>
    Array.from({ length: 16 }, (_, i) => first + i)
  );
  const [ofDrained, ofOther] = await received(present);
  assert.ok(ofDrained.length > 0 && ofOther.length > 0, "both have sessions");
  await reload(`{ address = "${drained}", drain = true }`, `"${other}"`);
  // From the same ports of ours as before, too.
  assert.deepEqual(await received(present), [ofDrained, ofOther]);
  const [none, all] = await received(later);
  assert.deepEqual([none, all.length], [[], later.length]);
  await reload(`"${other}"`);
  const [left, moved] = await received(present);
  assert.deepEqual([left, moved.length], [[], present.length]);
});

labTest("backends come from a file and fail their checks, and no reload is needed", async (lab) => {
  const { host, client, servers, addresses } = await withServers(lab, 3);
  const running = await Promise.all(addresses.map((address) => nameServer(servers, address)));
  const file = temporaryFile("[]", ".json");
  const list = (...backends: unknown[]) => Deno.writeTextFileSync(file, JSON.stringify(backends));
  list("198.18.5.1:53", { address: "198.18.5.2:53", weight: 2 });
  const places = addresses.map((address) => `${address}:53`);
  const config = `listen = ["53=balance"]
[apps.balance]
own_ports = ["20000-20063"]
send_to = ["198.18.5.0/24"]
read = ["${file}"]
net = ${JSON.stringify(places)}
[apps.balance.options]
backends_file = "${file}"
check = "tcp"
probe_seconds = 0.2
probe_failures = 2
`;
  const appliance = await Appliance.start(host, configured(config));
  const { stderr } = appliance.process;
  /** Asks from as many ports, until each question is answered. */
  const answered = () =>
    eventually("answers from all that are up", async () => {
      const asked = Array.from({ length: 12 }, () =>
        client.run(["dig", `@${HOST}`, "+short", "+tries=1", "+timeout=2", "web.example.org"])
          .catch(() =>
            ""
          ));
      return (await Promise.all(asked)).every((said) => said.includes("198.18.0.81")) || undefined;
    });
  await answered();
  running[0].kill("SIGKILL");
  await stderr.find("balance: 198.18.5.1:53 is down: it fails its checks");
  await answered();
  list("198.18.5.2:53", "198.18.5.3:53");
  await stderr.find("balance beside: 2 backends");
  running[1].kill("SIGKILL");
  await stderr.find("balance: 198.18.5.2:53 is down: it fails its checks");
  await answered();
  Deno.writeTextFileSync(file, "[");
  await stderr.find("balance beside: the backends are unchanged: ");
  await answered();
});

labTest("backends come from DNS, and are checked by HTTP", async (lab) => {
  const { host, client, servers, addresses } = await withServers(lab, 3);
  const [first, second, resolver] = addresses;
  const names = temporaryFile("");
  const publish = (serial: number, ...backends: string[]) => {
    const head = `$TTL 0\n@ SOA ns1 host ${serial} 1 1 1 1\n@ NS ns1\nns1 A ${resolver}\n`;
    Deno.writeTextFileSync(names, head + backends.map((one) => `dns A ${one}\n`).join(""));
  };
  publish(1, first, second);
  for (const address of [first, second]) await nameServer(servers, address);
  const naming = await nameServer(servers, resolver, ["backends.test", names]);
  const healthy = Deno.makeTempDirSync({ prefix: "tegula-health-" });
  Deno.writeTextFileSync(`${healthy}/healthz`, "well\n");
  const [health] = [first, second].map((address) =>
    servers.spawn(["python3", "-m", "http.server", "8080", "--bind", address, "-d", healthy])
  );
  // ip-netns(8) puts what is there into the place of the files in /etc.
  const ofNamespaces = "/etc/netns";
  Deno.mkdirSync(ofNamespaces, { recursive: true });
  mustRun(["mount", "-t", "tmpfs", "none", ofNamespaces]);
  Deno.mkdirSync(`${ofNamespaces}/${host.name}`);
  Deno.writeTextFileSync(`${ofNamespaces}/${host.name}/resolv.conf`, `nameserver ${resolver}\n`);
  try {
    const checked = [first, second].map((address) => `${address}:8080`);
    const config = `listen = ["53=balance"]
[apps.balance]
own_ports = ["20000-20063"]
send_to = ["198.18.5.0/24"]
net = ${JSON.stringify(["dns.backends.test", ...checked])}
[apps.balance.options]
backends = ["dns.backends.test:53"]
resolve = 1
check = "/healthz"
check_port = 8080
probe_seconds = 0.2
probe_failures = 2
`;
    const appliance = await Appliance.start(host, configured(config));
    const { stderr } = appliance.process;
    const answered = () =>
      eventually("an answer", async () => {
        const said = await client.run(
          ["dig", `@${HOST}`, "+short", "+tries=1", "+timeout=1", "web.example.org"],
        ).catch(() => "");
        return said.includes("198.18.0.81") || undefined;
      });
    await answered();
    health.kill("SIGTERM");
    await stderr.find(`balance: ${first}:53 is down: it fails its checks`);
    await answered();
    Deno.removeSync(`${healthy}/healthz`);
    await stderr.find(`balance: ${second}:53 is down: it fails its checks`);
    Deno.writeTextFileSync(`${healthy}/healthz`, "well again\n");
    await stderr.find(`balance: ${second}:53 is up`);
    publish(2, second);
    naming.kill("SIGHUP");
    await stderr.find("balance beside: 1 backends");
    await answered();
  } finally {
    mustRun(["umount", ofNamespaces]);
    Deno.removeSync(healthy, { recursive: true });
  }
});
