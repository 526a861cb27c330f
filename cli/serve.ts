/**
 * What `tegula run` does once it knows what is wanted: checks what can be checked beforehand, takes
 * ports and interfaces, boots the appliance, and stays until a signal ends it. Every failure on the
 * way ends with one sentence and leaves nothing behind.
 *
 * @module
 */

import { fileURLToPath, pathToFileURL } from "node:url";
import { Appliance, type AppPlan, type MainLibraries } from "../tiles/runtime/appliance.ts";
import { type Attachment, OccupiedError } from "../tiles/runtime/attachment.ts";
import { planTiles } from "../tiles/runtime/plan.ts";
import type { Listen, RunConfig } from "./config.ts";
import { Exit, UserError } from "./errors.ts";
import * as preflight from "./preflight.ts";
import { watchRings } from "./watch.ts";

/** Apps that ship; each is `tiles/app/NAME.ts`. */
const SHIPPED = ["discard", "echo", "time"];

/** Boots, serves, stops. Returns the exit status. */
export async function serve(config: RunConfig, libraries: MainLibraries): Promise<number> {
  const apps = planApps(config.listen);
  preflight.checkPrivileges(libraries.host, config);
  preflight.checkInterfaces(libraries.host, config.interfaces);
  const sockets = preflight.takePorts(config, { udpSetup: libraries.udpSetup, log });
  const xdp = config.provider !== "socket";
  const attachments = xdp ? preflight.loadPrograms(config.interfaces, libraries) : [];
  const partial = attachments.map(({ name }) => preflight.partialChecksums(libraries.host, name));
  const plan = planTiles({
    queues: attachments.map(({ name }) => preflight.queues(libraries.host, name)),
    cores: navigator.hardwareConcurrency,
    apps: apps.length,
    ...(config.netTiles !== undefined && { netTiles: config.netTiles }),
  });

  const ending = Promise.withResolvers<number>();
  const appliance = new Appliance({
    libraries,
    attachments,
    plan,
    apps,
    sockets,
    confine: true,
    keepNetAdmin: preflight.hasNetAdmin(libraries.host),
    modules: fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, ""),
    log,
    fatal: (tile, message) => {
      log(`${tile} ended: ${message}`);
      ending.resolve(Exit.failure);
    },
  });
  const stop = () => ending.resolve(Exit.ok);
  Deno.addSignalListener("SIGTERM", stop);
  Deno.addSignalListener("SIGINT", stop);
  try {
    const booted = boot(appliance, { config, libraries, attachments, partial });
    await Promise.race([booted, ending.promise]);
    return await ending.promise;
  } finally {
    await appliance.stop();
  }
}

/** From nothing to serving; leaves watchers behind that live as long as the process. */
async function boot(
  appliance: Appliance,
  { config, libraries, attachments, partial }: {
    config: RunConfig;
    libraries: MainLibraries;
    attachments: readonly Attachment[];
    partial: readonly boolean[];
  },
): Promise<void> {
  await appliance.startMirror();
  await preflight.waitForInterfaces(appliance.netbase, { names: config.interfaces, log });
  preflight.checkMtus(appliance.netbase, {
    names: config.interfaces,
    strict: config.provider !== "socket",
  });
  if (config.provider === "socket") {
    for (const name of config.interfaces) log(`${name}: kernel sockets (as asked)`);
  } else {
    attach(appliance, { config, attachments });
  }
  await appliance.startTiles(partial);
  Deno.addSignalListener("SIGUSR1", () => {
    console.error(`counters: ${JSON.stringify(appliance.counters())}`);
  });
  watchRings(appliance, { xsk: libraries.xsk, log });
  const ports = config.listen.map(({ port, app }) => `${port}=${app}`).join(" ");
  log(`ready: ${config.interfaces.join(" ")} answering ${ports}`);
  libraries.host.notify("READY=1");
}

/** Attaches and says for each interface in which mode and why; falls back where that is allowed. */
function attach(
  appliance: Appliance,
  { config, attachments }: { config: RunConfig; attachments: readonly Attachment[] },
): void {
  try {
    appliance.attach().forEach(({ mode, reason }, i) => {
      log(`${attachments[i].name}: ${mode} (${reason})`);
    });
  } catch (error) {
    const names = config.interfaces.join(", ");
    if (!(error instanceof Error) || error instanceof OccupiedError) {
      throw preflight.explainXdp(names, error);
    }
    if (config.provider === "xdp") {
      throw new UserError(
        `AF_XDP does not work on ${names}: ${error.message}; use --provider socket`,
        Exit.xdp,
      );
    }
    for (const name of config.interfaces) log(`${name}: kernel sockets (${error.message})`);
  }
}

/** Groups the ports by the app that answers on them. */
function planApps(listen: readonly Listen[]): AppPlan[] {
  const ports = new Map<string, number[]>();
  for (const { app, port } of listen) ports.set(app, [...ports.get(app) ?? [], port]);
  return [...ports].map(([app, its]) => ({ name: app, module: appModule(app), ports: its }));
}

function appModule(app: string): string {
  if (SHIPPED.includes(app)) return new URL(`../tiles/app/${app}.ts`, import.meta.url).href;
  if (!app.includes("/")) {
    throw new UserError(
      `there is no app '${app}'; the apps are ${SHIPPED.join(", ")}, or a path such as ./my_app.ts`,
      Exit.usage,
    );
  }
  try {
    return pathToFileURL(Deno.realPathSync(app)).href;
  } catch {
    throw new UserError(`cannot read the app module ${app}; check the path`, Exit.usage);
  }
}

/** One line for whoever watches: stderr, so that stdout stays free. */
function log(line: string): void {
  console.error(line);
}
