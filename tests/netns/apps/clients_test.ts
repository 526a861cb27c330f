// SPDX-License-Identifier: Apache-2.0
/**
 * The apps that ship, asked by the programs that people ask them with: dig and dnsperf, chronyd and
 * ntpdate, and a StatsD client from npm.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { APPS } from "../../../apps/registry.ts";
import { configured, temporaryFile } from "../config_file.ts";
import {
  Appliance,
  assertPrompt,
  eventually,
  HOST,
  labTest,
  type Namespace,
  pair,
} from "../lab.ts";

function fixture(name: string): string {
  return fileURLToPath(new URL(`../../fixtures/app/${name}`, import.meta.url));
}

const DNS = `listen = ["53=dns"]
[apps.dns]
read = ["${fixture("example.zone")}"]
options = { zone = "${fixture("example.zone")}", rrl_ratelimit = 0 }`;

/** What dig says, its header line and its records, white space made single. */
async function dig(client: Namespace, question: string): Promise<string> {
  const command = `dig @${HOST} +tries=1 +timeout=20 +nostats +nocmd +norecurse ${question}`;
  return (await client.run(command.split(" "))).replaceAll(/[\t ]+/g, " ");
}

labTest("each app that ships runs inside a net tile, where dig is answered", async (lab) => {
  const { host, client } = await pair(lab);
  const listen = Object.keys(APPS).map((app, i) =>
    `"${app === "dns" ? 53 : 5000 + i}=${app}@inline"`
  );
  const balance =
    `[apps.balance]\nown_ports = ["20000-20063"]\noptions = { backends = ["198.18.5.1:53"] }`;
  await Appliance.start(
    host,
    configured(`${DNS.replace(/.*/, `listen = [${listen.join()}]\nnet_tiles = 1`)}\n${balance}`),
  );
  assert.match(await dig(client, "web.example.org A"), /3600 IN A 198.18.0.81/);
});

labTest(
  "dig is answered: records, NXDOMAIN, NODATA, delegation, wildcard, truncation",
  async (lab) => {
    const { host, client } = await pair(lab);
    const appliance = await Appliance.start(host, configured(DNS));
    const cases: [question: string, ...answers: RegExp[]][] = [
      [
        "web.example.org A",
        /status: NOERROR/,
        /flags: qr aa;/,
        /web\.example\.org\. 3600 IN A 198.18.0.81/,
      ],
      ["mail.example.org AAAA", /300 IN AAAA 2001:db8::25/],
      ["example.org MX", /MX 10 mail\.example\.org\./, /ADDITIONAL SECTION:\nmail\.example\.org\./],
      ["example.org TXT", /"v=spf1 -all" "semi;colon" "plain" "\\"quoted\\"" "caf\\195\\169"/],
      [
        "example.org SOA",
        /SOA ns1\.example\.org\. host\\\.master\.example\.org\. 2026010101 86400/,
      ],
      ["example.org CAA", /CAA 0 issue "ca\.example\.net"/],
      ["_sip._udp.example.org SRV", /SRV 10 60 5060 sip\.example\.org\./],
      ["chain.example.org A", /ANSWER: 4,/, /CNAME www\.example\.org\./, /A 198\.18\.0\.80/],
      [
        "nowhere.example.org A",
        /status: NXDOMAIN/,
        /AUTHORITY SECTION:\nexample\.org\. 300 IN SOA/,
      ],
      ["web.example.org AAAA", /status: NOERROR/, /ANSWER: 0, AUTHORITY: 1/],
      [
        "x.sub.example.org A",
        /flags: qr;/,
        /NS ns\.sub\.example\.org\./,
        /ns\.sub.* A 198\.18\.0\.53/,
      ],
      ["any.wild.example.org A", /any\.wild\.example\.org\. 3600 IN A 198\.18\.0\.99/],
      ["example.com A", /status: REFUSED/],
      ["+noedns +ignore big.example.org TXT", /flags: qr aa tc;/, /ANSWER: 0/],
      ["+bufsize=1232 big.example.org TXT", /ANSWER: 5/, /EDNS: version: 0.* udp: 1232/],
      ["+edns=1 +noednsneg example.org SOA", /status: BADVERS/],
      ["+nsid +subnet=0/0 web.example.org A", /status: NOERROR/, /ANSWER: 2/],
    ];
    for (const [question, ...answers] of cases) {
      const said = await dig(client, question);
      for (const answer of answers) assert.match(said, answer, question);
    }
    assert.equal((await appliance.counters()).get("errors"), 0);
  },
);

labTest("dnsperf gets an answer to each of thousands of questions", async (lab) => {
  const { host, client } = await pair(lab);
  await Appliance.start(host, configured(DNS.replace("53=dns", "53=dns*2")));
  const questions = temporaryFile(
    ["web.example.org A", "chain.example.org A", "no.example.org A", "example.org MX"].join("\n"),
  );
  const command = `dnsperf -s ${HOST} -d ${questions} -n 1000 -c 20 -q 50`;
  const said = await client.run(command.split(" "));
  assert.match(said, /Queries completed: +4000 \(100\.00%\)/);
  assert.match(said, /NOERROR 3000 \(75\.00%\), NXDOMAIN 1000 \(25\.00%\)/);
});

labTest("chronyd and ntpdate read the clock of a host that is synchronised", async (lab) => {
  const { host, client } = await pair(lab);
  const app = `[apps.ntp]\nmodule = "${fixture("synchronised_ntp.ts")}"\nclock = true`;
  await Appliance.start(host, configured(`listen = ["123=ntp"]\n${app}`));
  // It is the clock of this very machine, and read as that unless the machine is too busy.
  await assertPrompt(async () => {
    const said = await client.run(["ntpdate", "-q", HOST]);
    assert.match(said, /s3 no-leap/);
    return / [+-]0\.0\d+ \+\/- 0\.\d+ /.test(said) ? undefined : said;
  });
  const logs = Deno.makeTempDirSync({ prefix: "tegula-chrony-" });
  await assertPrompt(async () => {
    const child = new Deno.Command("ip", {
      args: ["netns", "exec", client.name, "chronyd", "-Q", "-t", "15", "-f", "/dev/null"]
        .concat(`server ${HOST} iburst maxsamples 1`, "user root", `logdir ${logs}`)
        .concat("log measurements"),
      stderr: "piped",
    });
    const said = new TextDecoder().decode((await child.output()).stderr);
    return /System clock wrong by -?0\.0\d* seconds/.test(said) ? undefined : said;
  });
  // Address, leap status, stratum, …, root delay, root dispersion, reference ID (chrony.conf(5)).
  const [measured] = Deno.readTextFileSync(`${logs}/measurements.log`).split("\n")
    .map((line) => line.trim().split(/\s+/)).filter((words) => words[2] === HOST);
  assert.deepEqual([measured[3], measured[4], measured[16]], ["N", "3", "7F7F0101"]);
  assert.equal(Number(measured[14]), 0);
  // What the fixture says of the kernel's maxerror, in 16.16 bits.
  assert.ok(Math.abs(Number(measured[15]) - 0.002) < 2e-5, measured[15]);
  Deno.removeSync(logs, { recursive: true });
});

labTest("a host whose clock nobody keeps says so", async (lab) => {
  const { host, client } = await pair(lab);
  const appliance = await Appliance.start(host, ["--interface", "eth0", "--listen", "123=ntp"]);
  // As adjtimex(8) would say it; the test's own host may be either.
  const answer = await client.run([
    "python3",
    "-c",
    `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.sendto(bytes([0x23]) + bytes(47), ("${HOST}", 123)); print(*s.recv(100)[:2])`,
  ]);
  const [first, stratum] = answer.split(" ").map(Number);
  assert.ok(
    (first >> 6 === 3 && stratum === 0) || (first >> 6 < 3 && stratum === 3),
    `leap ${first >> 6}, stratum ${stratum}`,
  );
  assert.equal((await appliance.counters()).get("errors"), 0);
});

labTest("what a StatsD client sends of each kind is shown in the metrics", async (lab) => {
  const { host, client } = await pair(lab);
  const place = "127.0.0.1:9464";
  const text =
    `metrics = "${place}"\nlisten = ["8125=statsd"]\n[apps.statsd.options]\ninterval = 6`;
  await Appliance.start(host, configured(text));
  const program = fileURLToPath(new URL("../../fixtures/app/statsd_client.ts", import.meta.url));
  await client.run([Deno.execPath(), "run", "--allow-all", "--no-check", program, HOST]);
  const shown = await eventually("the numbers", async () => {
    const text = await host.run([
      "python3",
      "-c",
      `import urllib.request; print(urllib.request.urlopen("http://${place}/metrics").read().decode())`,
    ]);
    return /name="page\.load\.count"\} 3/.test(text) && /load\.median"\} [1-9]/.test(text) &&
        /name="users\.unique"\} 2\n/.test(text)
      ? text
      : undefined;
  });
  assert.match(
    shown,
    /tegula_app_custom_total\{app="statsd",tile="statsd",name="page\.views"\} 42\n/,
  );
  assert.match(shown, /tegula_app_custom\{app="statsd",tile="statsd",name="queue"\} 17\n/);
  assert.match(shown, /name="page\.size\.sum"\} 300\n/);
  assert.match(shown, /name="statsd\.tags_dropped"\} 2\n/);
  assert.match(shown, /name="statsd\.lines_refused",reason="value"\} 0\n/);
  assert.match(
    shown,
    /tegula_app_custom_total\{app="statsd",tile="statsd",name="page\.load\.sum"\} 60\n/,
  );
});
