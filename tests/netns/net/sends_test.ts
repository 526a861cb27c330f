// SPDX-License-Identifier: Apache-2.0
/**
 * What an app sends without being asked, as a client on the wire sees it, and what the host counts of that
 * which does not leave.
 */

import { strict as assert } from "node:assert";
import { temporaryFile } from "../config_file.ts";
import { Appliance, assertGrowth, labTest, pair } from "../lab.ts";

/** Sends what each request, in JSON, says: the header fields of the request as text. */
const SENDER = temporaryFile(
  `
export default function create({ parseAddress }) {
  return {
    answer({ payload, ttl, dscp, ecn }, out) {
      const { to, from, ...more } = JSON.parse(new TextDecoder().decode(payload));
      const source = from === undefined ? {} : { sourceAddress: parseAddress(from) };
      out.send({ address: parseAddress(to), ...source, ...more }, \`\${ttl} \${dscp} \${ecn}\`);
    },
  };
}
`,
  ".js",
);

const PORT = 5009;
/**
 * Sends each line of standard input with a TTL of 33, DSCP 10 and ECN 2, and prints what comes in, with TTL and
 * TOS. 12 and 13 are IP_RECVTTL and IP_RECVTOS.
 */
const CLIENT = `
import select, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", ${PORT}))
for option, value in ((socket.IP_TTL, 33), (socket.IP_TOS, 42), (12, 1), (13, 1)):
    s.setsockopt(socket.IPPROTO_IP, option, value)
print("ready", flush=True)
while True:
    for ready in select.select([s, sys.stdin], [], [])[0]:
        if ready is s:
            data, control, _, peer = s.recvmsg(65536, 256)
            fields = {kind: value[0] for _, kind, value in control}
            print("got", data.decode(), peer[0], peer[1], fields[socket.IP_TTL], fields.get(socket.IP_TOS), flush=True)
        else:
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            s.sendto(line.encode(), ("198.18.0.1", 7))
`;

/** Where each counter says that a datagram did not go. */
const REFUSED: readonly [counter: string, said: object][] = [
  ["tx_drop_unsolicited", { to: "198.51.100.7" }],
  ["tx_drop_unsolicited", { to: "198.51.100.255" }],
  ["tx_drop_port_zero", { to: "198.18.0.2", port: 0 }],
  ["tx_drop_port_not_owned", { to: "198.18.0.2", sourcePort: 8 }],
  ["tx_drop_source_not_local", { to: "198.18.0.2", from: "198.18.0.77" }],
  ["tx_drop_source_not_local", { to: "198.18.0.2", from: "198.18.0.255" }],
  ["tx_drop_source_loopback", { to: "198.18.0.2", from: "127.0.0.1" }],
  ["tx_drop_no_route", { to: "203.0.113.1" }],
  ["tx_drop_blackhole", { to: "203.0.113.2" }],
  ["tx_drop_prohibit", { to: "203.0.113.3" }],
  ["tx_drop_unreachable", { to: "203.0.113.4" }],
];

for (const provider of ["xdp", "socket"]) {
  labTest(
    `a datagram leaves with its header fields, to one or to all, or is counted (${provider})`,
    async (lab) => {
      const { host, client } = await pair(lab);
      for (const [type, last] of [["blackhole", 2], ["prohibit", 3], ["unreachable", 4]]) {
        await host.ip(`route add ${type} 203.0.113.${last}`);
      }
      const config = temporaryFile(
        `interfaces = ["eth0"]\nlisten = ["7=sender"]\nprovider = "${provider}"\n[apps.sender]\n` +
          `module = "${SENDER}"\nsend_to = ["198.18.0.255", "203.0.113.0/24"]\n`,
        ".toml",
      );
      const appliance = await Appliance.start(host, ["--config", config]);
      const asking = client.spawn(["python3", "-c", CLIENT], { stdin: "piped" });
      await asking.stdout.find("ready");
      const sent = async (said: object) => {
        const from = asking.stdout.all.length;
        await asking.write(JSON.stringify({ port: PORT, ...said }));
        return await asking.stdout.find("got", { from });
      };
      const fields = { ttl: 5, dscp: 46, ecn: 1 };
      assert.equal(await sent({ to: "198.18.0.2" }), "got 33 10 2 198.18.0.1 7 64 0");
      assert.equal(await sent({ to: "198.18.0.2", ...fields }), "got 33 10 2 198.18.0.1 7 5 185");
      assert.equal(await sent({ to: "198.18.0.255", ...fields }), "got 33 10 2 198.18.0.1 7 5 185");
      for (const [counter, said] of REFUSED) {
        const before = await appliance.counters();
        await asking.write(JSON.stringify({ port: PORT, ...said }));
        await assertGrowth(appliance, before, { [counter]: 1 });
      }
      assert.equal((await appliance.stop()).code, 0);
    },
  );
}
