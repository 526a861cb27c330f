/**
 * `tegula run`: answers UDP on interfaces of this host until it is told to stop.
 */

import { MOST_PORTS_SERVED, portsOf } from "../tiles/runtime/ports.ts";
import { planApps } from "./apps.ts";
import { checkConfig, CONFIG_OPTIONS, listenText, readConfig } from "./config.ts";
import { controlPath } from "../master/listen.ts";
import { takeDefaults } from "./default_interfaces.ts";
import { becomeConfined, checkConfinement, isConfined } from "../master/confinement.ts";
import { leave, log, type Run, serve, takeCarried } from "../master/master.ts";
import { type MainLibraries, openLibraries } from "../master/libraries.ts";
import { command, type Given } from "./options.ts";
import {
  checkInterfaces,
  checkLimits,
  checkOccupants,
  checkPorts,
  checkPrivileges,
} from "../master/preflight.ts";

const HELP = `usage: tegula run [--interface IF…] --listen PORT=APP… [OPTIONS]

Answers UDP on the interfaces, by AF_XDP where that works, with the addresses, routes and neighbours
that the kernel has. SIGTERM and SIGINT end it; SIGHUP, as 'tegula reload', has it read its
configuration and apps anew; SIGUSR2 prints every tile's counters.

  --interface IF      an interface to take frames from; may be given again. Without one, and without
                      --config, those that the default route goes by, which the log names
  --listen PORT=APP   a UDP port and the app that answers on it: discard, dns, echo, ntp, statsd,
                      time, or the path of a module; may be given again. FIRST-LAST=APP: every port
                      of a range; PORT=APP*N: N instances share it by flow; PORT=APP@inline: inside
                      the net tiles (docs/apps.md); at most ${MOST_PORTS_SERVED} ports in all
  --provider WHICH    auto (default): zero-copy, native copy, generic, else the kernel's sockets;
                      xdp: AF_XDP or nothing; socket: the kernel's sockets alone
  --net-tiles N       how many net tiles; by default the queues, at most the cores less one
  --checksums WHICH   of received UDP: verify (default), or nic, which is believed
  --busy-poll         net tiles poll the drivers of their AF_XDP sockets, in place of interrupts
  --dispatcher        beside other XDP programs, by libxdp's dispatcher (docs/operating/configure.md)
  --control PATH      where it can be asked while it runs ('tegula show --live'), or none; by default
                      /run/tegula/IF.sock of the first interface
  --metrics ADDRESS:PORT
                      where its counters are read in Prometheus's format; by default nowhere
  --config FILE       read the same from a file (TOML: interfaces, listen, provider, net_tiles, checksums,
                      busy_poll, dispatcher, control, metrics), the first user of its processes (user), and
                      what apps are told and granted, in [apps.NAME]
  --help              this

Exit status: 0 stopped as asked, 2 bad usage, 3 a privilege is missing, 4 an interface, 5 a port,
6 XDP or AF_XDP, 7 the system lacks something, 1 anything else.`;

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

/** What is to be served, read and checked, in place of what is served already. Throws UserError. */
async function planRun(
  values: Given<typeof CONFIG_OPTIONS>["values"],
  { libraries, before }: { libraries: MainLibraries; before?: Run },
): Promise<Run> {
  const asked = await readConfig(values);
  checkConfig(asked);
  const apps = planApps(asked);
  const taken = asked.interfaces.length > 0 ? [] : takeDefaults(libraries.host, {
    // A service names its interfaces: where the default route goes while a host boots, nobody knows.
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
  // One that is served already may be gone for a while.
  const served = before?.config.interfaces ?? [];
  checkInterfaces(libraries.host, config.interfaces.filter((name) => !served.includes(name)));
  const hasStatus = control !== null || addresses.metrics !== null;
  checkLimits(libraries.host, { ...config, apps, hasStatus, serves: before !== undefined });
  const ours = before?.apps.flatMap(({ ports }) => portsOf(ports)) ?? [];
  checkPorts(config, { libraries, ours, log });
  if (before === undefined) checkOccupants(config, libraries);
  return { config, apps, answering: listenText(config.listen), addresses };
}
