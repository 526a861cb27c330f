// SPDX-License-Identifier: Apache-2.0
/**
 * The name servers for one zone: Tegula's in both placements and the one in C. Their configurations, and the
 * command lines that start them in the foreground.
 */

import { selfCommand } from "../cli/command.ts";
import { ORIGIN } from "./dns_zone.ts";
import { TEGULA } from "./harness.ts";
import { INLINE } from "./placements.ts";
import { ADDRESS, INTERFACE } from "./track.ts";

/** The servers' folder: in memory, and removed with the laboratory. */
const FOLDER = "/run/dns";

/**
 * A server in C: the command that prints its version, its configuration, and its command line with that in a
 * file. One process answers, as briefly as ours, without a rate limit.
 */
const IN_C = [
  {
    name: "nsd",
    version: ["nsd", "-v"],
    config: (zone: string) =>
      `server:
  ip-address: ${ADDRESS}
  server-count: 1
  username: ""
  zonesdir: "${FOLDER}"
  pidfile: "${FOLDER}/nsd.pid"
  xfrdfile: "${FOLDER}/nsd.xfrd"
  zonelistfile: "${FOLDER}/nsd.list"
  xfrdir: "${FOLDER}"
  rrl-ratelimit: 0
  minimal-responses: yes
remote-control:
  control-enable: no
zone:
  name: ${ORIGIN}
  zonefile: ${zone}
`,
    start: (config: string) => ["nsd", "-d", "-c", config],
  },
  {
    name: "knot",
    version: ["knotd", "--version"],
    config: (zone: string) =>
      `server:
  rundir: ${FOLDER}
  listen: ${ADDRESS}@53
  udp-workers: 1
  tcp-workers: 1
database:
  storage: ${FOLDER}
zone:
- domain: ${ORIGIN}
  file: ${zone}
`,
    start: (config: string) => ["knotd", "-c", config],
  },
];

/** Writes the zone and the configurations, and returns the command lines by name. */
export async function nameServers(zone: string): Promise<Record<string, readonly string[]>> {
  await Deno.mkdir(FOLDER, { recursive: true });
  const path = `${FOLDER}/bench.zone`;
  await Deno.writeTextFile(path, zone);
  const write = async (name: string, text: string) => {
    await Deno.writeTextFile(`${FOLDER}/${name}`, text);
    return `${FOLDER}/${name}`;
  };
  const tegula = async (app: string) => {
    const file = await write(
      `${app}.toml`,
      `interfaces = ["${INTERFACE}"]\nprovider = "xdp"\nlisten = ["53=${app}"]
[apps.dns]\nread = ["${path}"]\noptions = { zone = "${path}", rrl_ratelimit = 0 }\n`,
    );
    return [...selfCommand(), "run", "--config", file];
  };
  const inC = IN_C.find(({ version }) => isThere(version));
  if (inC === undefined) {
    console.error("no name server in C is here: left out; get one with apt-get install nsd");
  }
  return {
    [TEGULA]: await tegula("dns"),
    ...(inC && { [inC.name]: inC.start(await write(inC.name, inC.config(path))) }),
    [INLINE]: await tegula("dns@inline"),
  };
}

function isThere([program, ...args]: readonly string[]): boolean {
  try {
    const output = { stdout: "null", stderr: "null" } as const;
    return new Deno.Command(program, { args, ...output }).outputSync().success;
  } catch {
    return false;
  }
}
