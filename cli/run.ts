// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula run`: answers UDP on interfaces of this host until it is stopped.
 */

import { portsOf } from "../tiles/runtime/plan.ts";
import { checkConfig, CONFIG_OPTIONS, listenText, planApps, readConfig } from "./config.ts";
import {
  checkInterfaces,
  checkLimits,
  checkOccupants,
  checkPorts,
  checkPrivileges,
  controlPath,
} from "../master/preflight.ts";
import { takeDefaults } from "./snapshot.ts";
import {
  becomeConfined,
  checkConfinement,
  isConfined,
  type MainLibraries,
  openLibraries,
  takeCarried,
} from "../master/confinement.ts";
import { log } from "../master/log.ts";
import { serve } from "../master/master.ts";
import type { Run } from "../master/successor.ts";
import { command, type Given } from "./command.ts";

export default command({
  name: "run",
  usage: ["[--interface IF…] --listen PORT=APP… [OPTIONS]", "--config FILE [OPTIONS]"],
  about:
    `Answers UDP on the interfaces, by AF_XDP if possible, with the addresses, routes and neighbours that
the kernel has. SIGTERM and SIGINT stop it. SIGHUP reloads configuration and apps, like 'tegula reload'.
SIGUSR2 prints the counters of all tiles.`,
  options: CONFIG_OPTIONS,
  status:
    `0 stopped as asked, 2 wrong usage, 3 a missing privilege, 4 an interface, 5 a port, 6 XDP or AF_XDP,
7 something missing on the system, 1 anything else.`,
}, start);

async function start(
  { values }: Given<typeof CONFIG_OPTIONS>,
  args: readonly string[],
): Promise<number> {
  const libraries = openLibraries();
  libraries.tile.nameThread("tegula");
  const first = takeCarried(libraries) ?? await planRun(values, { libraries });
  if (!("appliance" in first) && !isConfined()) becomeConfined(first, libraries, args);
  const plan = async (before: Run) => {
    const run = await planRun(values, { libraries, before });
    checkConfinement(run);
    return run;
  };
  return await serve(first, { plan, libraries, args });
}

/** Reads and checks what is to be served, to replace `before` if that is given. Throws UserError. */
async function planRun(
  values: Given<typeof CONFIG_OPTIONS>["values"],
  { libraries, before }: { libraries: MainLibraries; before?: Run },
): Promise<Run> {
  const asked = await readConfig(values);
  checkConfig(asked);
  const apps = planApps(asked);
  const taken = asked.interfaces.length > 0 ? [] : takeDefaults(libraries.host, {
    // A service has to name its interfaces: the default route may not exist yet while a host boots.
    isAllowed: values.config === undefined,
    log,
  });
  const config = { ...asked, interfaces: [...asked.interfaces, ...taken] };
  const control = await controlPath(config.control, {
    interfaces: config.interfaces,
    host: libraries.host,
    ours: before?.addresses.control ?? null,
  });
  const addresses = { control, metrics: config.metrics ?? null };
  checkPrivileges(libraries.host, config);
  // An interface that is served already may be missing for a while.
  const served = before?.config.interfaces ?? [];
  checkInterfaces(libraries.host, config.interfaces.filter((name) => !served.includes(name)));
  const hasStatus = control !== null || addresses.metrics !== null;
  checkLimits(libraries.host, { ...config, apps, hasStatus, serves: before !== undefined });
  const ours = before?.apps.flatMap(({ ports }) => portsOf(ports)) ?? [];
  checkPorts(config, { libraries, ours, log });
  if (before === undefined) checkOccupants(config, libraries);
  return { config, apps, answering: listenText(config.listen, config.apps), addresses };
}
