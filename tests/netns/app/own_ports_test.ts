// SPDX-License-Identifier: Apache-2.0
/** Instances with ports of their own: what is answered there comes back to the instance that asked. */

import assert from "node:assert/strict";
import { configured } from "../config_file.ts";
import { answeredAtLeast, Appliance, CLIENT, HOST, labTest, pair, peer } from "../lab.ts";

/** Clients, each of which needs a port of the instance that serves it. */
const CLIENTS = 200;

function configuration(
  instances: number,
  ownPorts: string,
  { idleTimeout = 60, depth = 1024 } = {},
): string {
  return `listen = ["7=balance*${instances}"]
[apps.balance]
own_ports = ["${ownPorts}"]
send_to = ["${CLIENT}"]
state = "1M"
depth = ${depth}
options = { backends = ["${CLIENT}:5000"], idle_timeout = ${idleTimeout} }
`;
}

labTest("each client has its own answers, whatever instances there are", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await peer(client, "udp", CLIENT, "5000");
  const [option, path] = configured(configuration(2, "20000-20299"));
  const appliance = await Appliance.start(host, [option, path]);
  const { process: { stderr } } = appliance;
  const exchange = async () => {
    const flows = Array(CLIENTS).fill({ source: CLIENT, target: HOST, port: 7 });
    // So slowly that the backend, one process, loses nothing from its socket while the machine is busy.
    await asker.start({ flows, rate: 500 });
    await answeredAtLeast(asker, 4 * CLIENTS);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  };
  await exchange();
  const reload = async (text: string) => {
    const from = stderr.all.length;
    Deno.writeTextFileSync(path, `interfaces = ["eth0"]\n${text}`);
    appliance.process.kill("SIGHUP");
    return { said: await stderr.find("reload", { from }), from };
  };
  const same = await reload(configuration(2, "20000-20299", { idleTimeout: 61 }));
  assert.match(same.said, /^reloaded: /);
  const counts = await Promise.all(["balance.1", "balance.2"].map(async (name) => {
    const line = await stderr.find(`${name}: continues with `, { from: same.from });
    return Number(/(\d+) sessions$/.exec(line)?.[1]);
  }));
  assert.equal(counts[0] + counts[1], CLIENTS);
  const other = await reload(configuration(3, "30000-30599", { depth: 256 }));
  assert.match(
    other.said,
    /^reloaded: answering 7=balance\*3 \(own ports of balance: 30000-30599\)/,
  );
  await exchange();
});
