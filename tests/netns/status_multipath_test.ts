/** `tegula check` names the settings by which the kernel spreads flows otherwise, where they matter. */

import assert from "node:assert/strict";
import type { Finding } from "../../cli/check_findings.ts";
import { selfCommand } from "../../cli/self.ts";
import { labTest, pair } from "./lab.ts";

labTest("check names how the kernel spreads flows where Tegula does otherwise", async (lab) => {
  const { host } = await pair(lab);
  const findings = async () => {
    const command = [...selfCommand(), "check", "-j", "--interface", "eth0"].join(" ");
    const said = await host.run(["sh", "-c", `${command} || true`]);
    return (JSON.parse(said) as Finding[]).filter(({ subject }) => subject === "multipath");
  };
  await host.run(["sysctl", "-qw", "net.ipv4.fib_multipath_use_neigh=1"]);
  assert.deepEqual(await findings(), [], "there is nothing to spread over");
  const via = (gateway: string) => `nexthop via 198.18.0.${gateway}`;
  await host.ip(`route add 203.0.113.0/24 ${via("8")} ${via("9")}`);
  const found = await findings();
  assert.deepEqual(found.map(({ says }) => says.split(":")[0]), [
    "fib_multipath_hash_policy is 0",
    "fib_multipath_use_neigh is set",
  ]);
  for (const { fix } of found) {
    await host.run(["sh", "-c", `sysctl -q ${fix?.slice("sysctl".length)}`]);
  }
  assert.deepEqual(await findings(), []);
});
