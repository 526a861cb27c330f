/**
 * `tegula run`: answers UDP on interfaces of this host until it is stopped.
 */

import { APPS } from "../apps/registry.ts";
import { MOST_PORTS_SERVED, portsOf } from "../tiles/runtime/plan.ts";
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
} from "../master/confinement.ts";
import { leave, log, type Run, serve, takeCarried } from "../master/master.ts";
import { command, type Given } from "./command.ts";

const HELP = `usage: tegula run [--interface IF…] --listen PORT=APP… [OPTIONS]

Answers UDP on the interfaces, by AF_XDP if possible, with the addresses, routes and neighbours that the
kernel has. SIGTERM and SIGINT stop it. SIGHUP reloads configuration and apps, like 'tegula reload'. SIGUSR2
prints the counters of all tiles.

  --interface IF      an interface to take frames from; may be repeated. By default, without --config, the
                      interfaces of the default route, which the log names
  --listen PORT=APP   a UDP port and the app that answers on it: ${Object.keys(APPS).join(", ")},
                      or the path of a module; may be repeated. FIRST-LAST=APP: all ports of a range;
                      PORT=APP*N: N instances share the port by flow; PORT=APP@inline: inside the net
                      tiles (docs/apps.md). At most ${MOST_PORTS_SERVED} ports in all
  --provider WHICH    auto (default): zero-copy, native copy, generic mode, else the kernel's sockets;
                      xdp: AF_XDP or nothing; socket: the kernel's sockets only
  --net-tiles N       number of net tiles; by default the number of queues, at most the cores less one
  --checksums WHICH   of received UDP: verify (default), or nic, to trust the NIC
  --busy-poll         net tiles poll the drivers of their AF_XDP sockets instead of waiting for interrupts
  --dispatcher        attach beside other XDP programs, by libxdp's dispatcher (docs/operating/configure.md)
  --control PATH      the control socket, for 'tegula show --live' and others, or none; by default
                      /run/tegula/IF.sock, with the first interface
  --metrics ADDRESS:PORT
                      serve the counters in Prometheus's format there; by default not at all
  --config FILE       read the same from a file (TOML: interfaces, listen, provider, net_tiles, checksums,
                      busy_poll, dispatcher, control, metrics), and also the first user of its processes
                      (user) and the options and grants of apps ([apps.NAME])
  --help              print this

Exit status: 0 stopped as asked, 2 wrong usage, 3 a missing privilege, 4 an interface, 5 a port, 6 XDP or
AF_XDP, 7 something missing on the system, 1 anything else.`;

export default command({ name: "run", help: HELP, options: CONFIG_OPTIONS }, start);

async function start(
  { values }: Given<typeof CONFIG_OPTIONS>,
  args: readonly string[],
): Promise<number> {
  const libraries = openLibraries();
  const first = takeCarried(libraries) ?? await planRun(values, { libraries });
  if (!("appliance" in first) && !isConfined()) {
    const { carried, fd } = leave(first, libraries);
    becomeConfined(first, { host: libraries.host, args, carried, fds: [fd] });
  }
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
  return { config, apps, answering: listenText(config.listen), addresses };
}
