/**
 * `tegula run`: answers UDP on interfaces of this host until it is told to stop.
 *
 * @module
 */

import { placeGrants, together } from "../tiles/runtime/permissions.ts";
import { startGrants } from "../tiles/runtime/wiring.ts";
import { planApps } from "./apps.ts";
import {
  checkConfig,
  loadConfig,
  parseListen,
  parseMetrics,
  PROVIDERS,
  type RunConfig,
} from "./config.ts";
import { NO_CONTROL, placeControl } from "./control_place.ts";
import { Exit } from "./errors.ts";
import { openLibraries } from "./libraries.ts";
import { becomeNarrow, isNarrow, type Needs, settle } from "./narrow.ts";
import { oneOf, parseOptions, wholeNumber } from "./options.ts";
import { checkInterfaces, checkPorts, checkPrivileges } from "./preflight.ts";
import { log, serve } from "./serve.ts";

const HELP = `usage: tegula run --interface IF [--interface IF…] --listen PORT=APP… [OPTIONS]

Answers UDP on the interfaces, by AF_XDP where that works, with the addresses, routes and neighbours
that the kernel has. SIGTERM and SIGINT end it; SIGUSR2 prints every tile's counters.

  --interface IF      an interface to take frames from; may be given again
  --listen PORT=APP   a UDP port and the app that answers on it: discard, dns, echo, ntp, statsd,
                      time, or the path of a module; may be given again. PORT=APP*N: N instances
                      share it by flow; PORT=APP@inline: inside the net tiles (docs/apps.md)
  --provider WHICH    auto (default): zero-copy, native copy, generic, else the kernel's sockets;
                      xdp: AF_XDP or nothing; socket: the kernel's sockets alone
  --net-tiles N       how many net tiles; by default the queues, at most the cores less one
  --control PATH      where it can be asked while it runs ('tegula show --live'), or none; by default
                      /run/tegula/IF.sock of the first interface
  --metrics ADDRESS:PORT
                      where its counters are read in Prometheus's format; by default nowhere
  --config FILE       read the same from a file (TOML: interfaces, listen, provider, net_tiles, control,
                      metrics), and what apps are told and granted, in [apps.NAME]
  --help              this

Exit status: 0 stopped as asked, 2 bad usage, 3 a privilege is missing, 4 an interface, 5 a port,
6 XDP or AF_XDP, 7 the system lacks something, 1 anything else.`;

const OPTIONS = {
  interface: { type: "string", multiple: true },
  listen: { type: "string", multiple: true },
  provider: { type: "string" },
  "net-tiles": { type: "string" },
  control: { type: "string" },
  metrics: { type: "string" },
  config: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

/** Runs until stopped; returns the exit status. */
export async function run(args: string[]): Promise<number> {
  const { values } = parseOptions(args, { command: "run", options: OPTIONS });
  if (values.help) {
    console.log(HELP);
    return Exit.ok;
  }
  const file = values.config === undefined ? null : await loadConfig(values.config);
  const netTiles = values["net-tiles"] === undefined
    ? file?.netTiles
    : wholeNumber(values["net-tiles"], { option: "net-tiles", least: 1, most: 64 });
  const metrics = values.metrics === undefined ? file?.metrics : parseMetrics(values.metrics);
  const config: RunConfig = {
    interfaces: [...file?.interfaces ?? [], ...values.interface ?? []],
    listen: [...file?.listen ?? [], ...(values.listen ?? []).map(parseListen)],
    provider: values.provider === undefined
      ? file?.provider ?? "auto"
      : oneOf(values.provider, { option: "provider", allowed: PROVIDERS }),
    ...(netTiles !== undefined && { netTiles }),
    ...(metrics !== undefined && { metrics }),
    apps: file?.apps ?? {},
  };
  checkConfig(config);
  const apps = planApps(config);
  const libraries = openLibraries();
  const control = await placeControl(values.control ?? file?.control, config.interfaces);
  const places = { control, metrics: metrics ?? null };
  const needs: Needs = {
    grants: together([startGrants(apps.filter(({ inline }) => !inline)), placeGrants(places)]),
    files: [
      ...values.config === undefined ? [] : [Deno.realPathSync(values.config)],
      ...startGrants(apps.filter(({ inline }) => inline)).read,
    ],
  };
  if (!isNarrow()) {
    checkPrivileges(libraries.host, config);
    checkInterfaces(libraries.host, config.interfaces);
    checkPorts(config, { libraries, log });
    // What deno compile packs has its permissions baked in and cannot be started with fewer.
    if (!Deno.build.standalone) {
      const settled = ["--control", control ?? NO_CONTROL];
      becomeNarrow(libraries.host, ["run", ...args, ...settled], needs);
    }
  }
  return await serve(config, { apps, libraries, places, settle: () => settle(needs) });
}
