// SPDX-License-Identifier: Apache-2.0
/** Name servers behind an appliance, for tests of apps in front of them. */

import { fileURLToPath } from "node:url";
import type { LabProcess } from "../../demo/lab.ts";
import { temporaryFile } from "./config_file.ts";
import { type Lab, type Namespace, pair } from "./lab.ts";

/** A zone of example.org. */
export const ZONE = fileURLToPath(new URL("../fixtures/app/example.zone", import.meta.url));

/** Starts NSD on an address of the namespace, for a zone. */
export async function nameServer(
  namespace: Namespace,
  address: string,
  [name, file] = ["example.org", ZONE],
): Promise<LabProcess> {
  const folder = await Deno.makeTempDir({ prefix: "tegula-nsd-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  const config = temporaryFile(`server:
  ip-address: ${address}
  server-count: 1
  username: ""
  zonesdir: "${folder}"
  pidfile: ""
  xfrdfile: "${folder}/xfrd"
  zonelistfile: "${folder}/list"
  xfrdir: "${folder}"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: ${name}
  zonefile: ${file}
`);
  return namespace.spawn(["nsd", "-d", "-c", config]);
}

/** A host between a client and a namespace of servers, which has `count` addresses. */
export async function withServers(lab: Lab, count: number) {
  const { host, client, asker } = await pair(lab);
  const servers = await lab.namespace("servers");
  const addresses = Array.from({ length: count }, (_, i) => `198.18.5.${i + 1}`);
  await lab.join(
    { namespace: host, name: "eth1", addresses: ["198.18.5.254/24"] },
    { namespace: servers, name: "eth0", addresses: addresses.map((address) => `${address}/24`) },
  );
  return { host, client, asker, servers, addresses };
}
