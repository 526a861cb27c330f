/**
 * `tegula run`: answers UDP on interfaces of this host until it is told to stop.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { isOwnModule, planApps } from "./apps.ts";
import { checkConfig, loadConfig, parseListen, PROVIDERS, type RunConfig } from "./config.ts";
import { Exit } from "./errors.ts";
import { openLibraries } from "./libraries.ts";
import { becomeNarrow, isNarrow, settle } from "./narrow.ts";
import { oneOf, parseOptions, wholeNumber } from "./options.ts";
import { checkInterfaces, checkPorts, checkPrivileges } from "./preflight.ts";
import { log, serve } from "./serve.ts";

const HELP = `usage: tegula run --interface IF [--interface IF…] --listen PORT=APP… [OPTIONS]

Answers UDP on the interfaces, by AF_XDP where that works, with the addresses, routes and neighbours
that the kernel has. SIGTERM and SIGINT end it; SIGUSR2 prints every tile's counters.

  --interface IF      an interface to take frames from; may be given again
  --listen PORT=APP   a UDP port and the app that answers on it: echo, discard, time, or the path
                      of a module; may be given again
  --provider WHICH    auto (default): zero-copy, native copy, generic, else the kernel's sockets;
                      xdp: AF_XDP or nothing; socket: the kernel's sockets alone
  --net-tiles N       how many net tiles; by default the queues, at most the cores less one
  --config FILE       read the same from a file (TOML: interfaces, listen, provider, net_tiles)
  --help              this

Exit status: 0 stopped as asked, 2 bad usage, 3 a privilege is missing, 4 an interface, 5 a port,
6 XDP or AF_XDP, 7 the system lacks something, 1 anything else.`;

const OPTIONS = {
  interface: { type: "string", multiple: true },
  listen: { type: "string", multiple: true },
  provider: { type: "string" },
  "net-tiles": { type: "string" },
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
  const config: RunConfig = {
    interfaces: [...file?.interfaces ?? [], ...values.interface ?? []],
    listen: [...file?.listen ?? [], ...(values.listen ?? []).map(parseListen)],
    provider: values.provider === undefined
      ? file?.provider ?? "auto"
      : oneOf(values.provider, { option: "provider", allowed: PROVIDERS }),
    ...(netTiles !== undefined && { netTiles }),
  };
  checkConfig(config);
  const apps = planApps(config.listen);
  const libraries = openLibraries();
  const files = values.config === undefined ? [] : [Deno.realPathSync(values.config)];
  if (!isNarrow()) {
    checkPrivileges(libraries.host, config);
    checkInterfaces(libraries.host, config.interfaces);
    checkPorts(config, { libraries, log });
    const appModules = apps.filter(isOwnModule).map(({ module }) => fileURLToPath(module));
    // What deno compile packs has its permissions baked in and cannot be started with fewer.
    if (!Deno.build.standalone) {
      becomeNarrow(libraries.host, { args: ["run", ...args], appModules, files });
    }
  }
  return await serve(config, { apps, libraries, settle: () => settle(files) });
}
