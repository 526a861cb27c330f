// SPDX-License-Identifier: Apache-2.0
/**
 * One datagram with a forged source does not keep two servers busy: what answers whatever comes leaves
 * ports unanswered that are no client's, and stops at a bound where it is told one.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { configured } from "../config_file.ts";
import {
  Appliance,
  ask,
  CLIENT,
  eventually,
  HOST,
  labTest,
  type Namespace,
  pair,
  SILENCE_MILLIS,
} from "../lab.ts";

/** Where chargen, quotd, echo and their like answer from. */
const SERVERS = [7, 13, 17, 19, 37];

/** Sends one datagram in the name of a server that has the port: past its socket, which cannot be bound twice. */
const FORGE = `import socket, struct, sys
source, target, source_port, port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
text = b"round and round it goes"
udp = struct.pack("!HHHH", source_port, port, 8 + len(text), 0) + text
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0,
                 socket.inet_aton(source), socket.inet_aton(target))
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).sendto(ip + udp, (target, 0))`;

function forge(client: Namespace, { sourcePort, port }: { sourcePort: number; port: number }) {
  return client.run(["/usr/bin/python3", "-c", FORGE, CLIENT, HOST, `${sourcePort}`, `${port}`]);
}

for (const placement of ["", "@inline"]) {
  labTest(
    `what comes from a server's port gets no answer, and is counted (${placement || "own tile"})`,
    async (lab) => {
      const { host, asker } = await pair(lab);
      const ports = [5007, 5037];
      const listen = `listen = ["5007=echo${placement}", "5037=time${placement}"]`;
      const appliance = await Appliance.start(host, configured(listen));
      for (const port of ports) {
        for (const sourcePort of SERVERS) {
          const { bytes } = await ask(asker, { port, sourcePort, timeoutMs: SILENCE_MILLIS });
          assert.equal(bytes, null, `port ${sourcePort} to ${port}`);
        }
        for (const sourcePort of [53, 123, 5000]) {
          assert.notEqual(
            (await ask(asker, { port, sourcePort })).bytes,
            null,
            `port ${sourcePort}`,
          );
        }
      }
      const counters = await appliance.counters();
      assert.equal(counters.get("rx_drop_refused_source"), ports.length * SERVERS.length);
      assert.equal(counters.get("tx_accepted"), ports.length * 3);
    },
  );
}

/** Both appliances' counters once the datagram that went between them has been refused. */
async function refused(appliances: readonly Appliance[], counter: string) {
  return await eventually(`${counter} to move`, async () => {
    const all = await Promise.all(appliances.map((appliance) => appliance.counters()));
    const sum = (name: string) => all.reduce((sum, each) => sum + (each.get(name) ?? 0), 0);
    return sum(counter) === 0
      ? undefined
      : { refused: sum(counter), requests: sum("rx_delivered"), answers: sum("tx_accepted") };
  });
}

labTest("an echo and another host's on port 19 do not answer each other", async (lab) => {
  const { host, client } = await pair(lab);
  const both = [
    await Appliance.start(host, configured(`listen = ["7=echo"]`)),
    await Appliance.start(client, configured(`listen = ["19=echo"]`)),
  ];
  await forge(client, { sourcePort: 19, port: 7 });
  assert.deepEqual(await refused(both, "rx_drop_refused_source"), {
    refused: 1,
    requests: 1,
    answers: 0,
  });
});

labTest("two echoes on ports of clients stop answering each other at the bound", async (lab) => {
  const { host, client } = await pair(lab);
  const bound = "[apps.echo]\nmost_per_second = 5";
  const both = [
    await Appliance.start(host, configured(`listen = ["7000=echo@inline"]\n${bound}`)),
    await Appliance.start(client, configured(`listen = ["7001=echo"]\n${bound}`)),
  ];
  await forge(client, { sourcePort: 7001, port: 7000 });
  const { refused: count, requests, answers } = await refused(both, "rx_drop_rate_limited");
  // There was one datagram, and it is gone: each answer but the last was a request to the other.
  assert.equal(count, 1);
  assert.equal(requests, answers + 1);
  assert.ok(answers >= 5, `${answers} answers`);
});

/** Asks for one name QUERIES times, and prints how many answers have records and how many are truncated. */
const FLOOD = `import socket, sys
query = bytes.fromhex("000100000001000000000000") + b"\\3web\\7example\\3org\\0\\0\\1\\0\\1"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
queries, answers = int(sys.argv[2]), []
for _ in range(queries): s.sendto(query, (sys.argv[1], 53))
s.settimeout(20)
while len(answers) < queries // 2: answers.append(s.recv(2000))
print(*(sum(bool(answer[2] & 2) == cut for answer in answers) for cut in (False, True)))`;

labTest("a name server limits what one network gets, and others are answered", async (lab) => {
  const { host, client } = await pair(lab);
  const zone = fileURLToPath(new URL("../../fixtures/app/example.zone", import.meta.url));
  const options = `{ zone = "${zone}", rrl_ratelimit = 1 }`;
  const listen = `listen = ["53=dns"]\n[apps.dns]\nread = ["${zone}"]\noptions = ${options}`;
  await client.ip("addr add 192.0.2.2/32 dev eth0");
  await host.ip("route add 192.0.2.2 dev eth0");
  await Appliance.start(host, configured(listen));
  const said = await client.run(["/usr/bin/python3", "-c", FLOOD, HOST, "100"]);
  const [whole, cut] = said.trim().split(" ").map(Number);
  // A flood that begins at the end of a second has one answer in that and one in the next.
  assert.ok(whole >= 1 && whole <= 2 && whole + cut === 50, said);
  const dig = `dig @${HOST} -b 192.0.2.2 +tries=1 +timeout=20 +short web.example.org A`;
  assert.match(await client.run(dig.split(" ")), /198\.18\.0\.81/);
});
