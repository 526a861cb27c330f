/**
 * What `tegula run` does once it knows what is wanted: takes ports and interfaces, boots the
 * appliance, and stays until a signal ends it. Every failure on the way ends with one sentence and
 * leaves nothing behind.
 */

import { SystemError } from "../ffi/errno.ts";
import type { Host } from "../ffi/host.ts";
import { Appliance } from "../tiles/runtime/appliance.ts";
import { planTiles } from "../tiles/runtime/plan.ts";
import { portsOf } from "../tiles/runtime/ports.ts";
import { Ask } from "../tiles/runtime/control.ts";
import { AppError } from "../tiles/runtime/thrown.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { pollBusily } from "./busy_poll.ts";
import { Changes } from "./changes.ts";
import type { RunConfig } from "./config.ts";
import { Exit, UserError } from "./errors.ts";
import type { MainLibraries } from "./libraries.ts";
import {
  listenControl,
  listenMetrics,
  reasonOf,
  removeControl,
  type StatusPlaces,
} from "./listen.ts";
import { needsOf, settle } from "./narrow.ts";
import * as preflight from "./preflight.ts";
import { RingWatch } from "./watch.ts";

/** What is to be served, read and checked. Plain data: it stays what it is as JSON. */
export interface Run {
  /** What is configured, but for what `apps` has of it: as one environment variable it may not be long. */
  readonly config: Omit<RunConfig, "listen" | "apps">;
  readonly apps: readonly AppPlan[];
  /** What is answered where, for the log: `7=echo 5300-5363=dns*2`. */
  readonly answering: string;
  readonly places: StatusPlaces;
}

/** Boots, gives up what booting needed, serves, stops. Returns the exit status. */
export async function serve(run: Run, libraries: MainLibraries): Promise<number> {
  write = libraries.host.log;
  const ending = Promise.withResolvers<number>();
  const parts = prepare(run, libraries, () => ending.resolve(Exit.failure));
  const { appliance, places } = parts;
  const stop = () => ending.resolve(Exit.ok);
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, stop);
  }
  // Not SIGUSR1, by which Deno opens its debugger. Who does not listen yet is not ended by this one.
  Deno.addSignalListener("SIGURG", () => void appliance.reload());
  Deno.addSignalListener("SIGUSR2", () => {
    log(`counters: ${JSON.stringify(appliance.counters())}`);
  });
  try {
    await Promise.race([boot(parts), ending.promise]);
    settle(needsOf(run));
    return await ending.promise;
  } catch (error) {
    throw error instanceof SystemError ? new UserError(error.message, Exit.system) : error;
  } finally {
    await appliance.stop();
    if (places.control !== null) removeControl(places.control);
  }
}

/** Takes the ports, loads the XDP programs, and makes the appliance, of which nothing runs yet. */
function prepare(
  { config, apps, answering, places }: Run,
  libraries: MainLibraries,
  failed: () => void,
) {
  const { host } = libraries;
  const ports = [...new Set(apps.flatMap((app) => portsOf(app.ports)))];
  const sockets = preflight.takePorts(ports, { libraries });
  const xdp = config.provider !== "socket";
  const attachments = xdp ? preflight.loadPrograms(config, { libraries, log }) : [];
  if (attachments.length === 0) preflight.insistOnSockets(ports, sockets);
  const changes = new Changes();
  const appliance: Appliance = makeAppliance({
    ...libraries,
    attachments,
    trustChecksums: config.checksums === "nic",
    plan: planTiles({
      queues: attachments.map(({ name }) => preflight.queues(host, name)),
      cores: navigator.hardwareConcurrency,
      apps: apps.length,
      netTiles: config.netTiles,
    }),
    apps,
    sockets,
    listeners: listen(host, places),
    log,
    change: (kind, number) => changes.ask(number, () => change(kind, appliance)),
    fatal: (tile, message) => {
      log(`${tile} ended: ${message}`);
      failed();
    },
  });
  return { appliance, apps, config, answering, places, libraries, ports, sockets, attachments };
}

type Parts = ReturnType<typeof prepare>;

/** Makes the sockets that the status tile listens on. */
function listen(host: Host, { control, metrics }: StatusPlaces) {
  const at = (
    place: string | null,
    make: (host: Host, place: string) => number,
    option: string,
  ) => {
    try {
      return place === null ? null : make(host, place);
    } catch (error) {
      throw new UserError(`cannot listen at ${place} (${option}): ${reasonOf(error)}`, Exit.port);
    }
  };
  // What is to be removed at the end is made last.
  const metricsListener = at(metrics, listenMetrics, "--metrics");
  return { control: at(control, listenControl, "--control"), metrics: metricsListener };
}

/** Does what an operator asked for, and says what was done. */
async function change(kind: number, appliance: Appliance): Promise<string> {
  if (kind === Ask.upgrade) {
    throw new UserError(
      "not upgraded: a new start does that, 'systemctl restart tegula'",
      Exit.usage,
    );
  }
  const failed = await appliance.reload();
  if (failed.length > 0) throw new UserError(failed.join("; "), Exit.usage);
  return "reloaded: apps in tiles of their own";
}

/** Regions may take more memory or descriptors than the system gives. */
function makeAppliance(options: ConstructorParameters<typeof Appliance>[0]): Appliance {
  try {
    return new Appliance(options);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new UserError(error.message, Exit.system);
  }
}

/** From nothing to serving; leaves watchers behind that live as long as the process. */
async function boot(parts: Parts): Promise<void> {
  const { appliance, config, answering, places, libraries, attachments } = parts;
  const { xskSetup, host } = libraries;
  await appliance.startMirror();
  await appliance.startStatus();
  await preflight.waitForInterfaces(appliance.netbase, { names: config.interfaces, log });
  await started(parts, (appliance) => appliance.startApps());
  if (config.provider === "socket") {
    for (const name of config.interfaces) log(`${name}: kernel sockets (as asked)`);
  } else {
    preflight.checkMtus(appliance.netbase, config.interfaces);
    if (attachments.length > 0) attach(parts);
    if (config.busyPoll) pollBusily(attachments, { ...libraries, log });
  }
  await started(parts, (appliance) =>
    appliance.startTiles(
      attachments.map(({ name }) => preflight.partialChecksums(host, name)),
    ));
  const gone = ({ name }: { name: string }) =>
    log(
      `${name}: it is gone, and AF_XDP with it; should it come back, the kernel's sockets serve ` +
        "it until tegula is started again",
    );
  new RingWatch(attachments, { xskSetup, exists: host.exists, gone, log }).start();
  const asked = places.control === null ? "" : `; asked at ${places.control}`;
  log(`ready: ${config.interfaces.join(" ")} answering ${answering}${asked}`);
  host.notify("READY=1");
}

/** An app that does not start is the operator's to mend. */
async function started(
  { appliance, apps, config: { file } }: Parts,
  start: (appliance: Appliance) => Promise<void>,
): Promise<void> {
  try {
    await start(appliance);
  } catch (error) {
    throw error instanceof AppError ? preflight.appTrouble(error, { apps, file }) : error;
  }
}

/**
 * Attaches, having said that it will, and says for each interface in which mode and why; falls back
 * where that is allowed.
 */
function attach({ appliance, config, ports, sockets, attachments }: Parts): void {
  const names = attachments.map(({ name }) => name).join(", ");
  log(`attaching XDP to ${names}; some drivers restart the link for that`);
  try {
    appliance.attach().forEach(({ mode, reason }, i) => {
      log(`${attachments[i].name}: ${mode} (${reason})`);
    });
  } catch (error) {
    preflight.fallBack(error, { ...config, log });
    preflight.insistOnSockets(ports, sockets);
  }
}

/** How a line is written; false where it is lost. */
let write = (line: string): boolean => {
  console.error(line);
  return true;
};
/** Lines that could not be written since the last one that could. */
let lost = 0;

/**
 * One line for whoever watches: stderr, so that stdout stays free. Once it serves, main waits for no
 * reader of it, and what is lost is counted.
 */
export function log(line: string): void {
  if (lost > 0 && write(`${lost} lines of the log were lost: it could not be written`)) lost = 0;
  if (!write(line)) lost++;
}
