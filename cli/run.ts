// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula run`: answers UDP on interfaces of this host until it is stopped.
 */

import { portsServed } from "../tiles/runtime/plan.ts";
import { checkConfig, CONFIG_OPTIONS, listenText, planApps, readConfig } from "./config.ts";
import { checkStart, type Phase } from "../master/preflight.ts";
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
import type { Host } from "../ffi/host.ts";
import { command } from "./command.ts";

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
}, async ({ values }, args) => {
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
});

/** Reads and checks what to serve, as a replacement for `before` if given. Throws UserError. */
async function planRun(
  values: Parameters<typeof readConfig>[0],
  { libraries, before }: { libraries: MainLibraries; before?: Run },
): Promise<Run> {
  const { config, apps } = await readRun(values, libraries.host);
  const served = before === undefined ? null : {
    control: before.addresses.control,
    interfaces: before.config.interfaces,
    // XDP programs of further interfaces are checked when AF_XDP is opened there.
    xdp: config.interfaces,
    ports: portsServed(before.apps),
  };
  const phase: Phase = async (_, look) => await look();
  const addresses = await checkStart({ config, apps }, { libraries, served, log, phase });
  return { config, apps, answering: listenText(config.listen, apps), addresses };
}

/** Reads what to serve: the configuration, with default interfaces if it names none, and apps. */
export async function readRun(values: Parameters<typeof readConfig>[0], host: Host) {
  const asked = await readConfig(values);
  checkConfig(asked);
  const apps = planApps(asked);
  const taken = asked.interfaces.length > 0 ? [] : takeDefaults(host, {
    // A service must name its interfaces: during boot the default route may not exist yet.
    isAllowed: values.config === undefined,
    log,
  });
  return { config: { ...asked, interfaces: [...asked.interfaces, ...taken] }, apps };
}
