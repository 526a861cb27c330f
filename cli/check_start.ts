/**
 * The part of `tegula check --config` that goes through a start: its phases one after the other, up to
 * where it would attach XDP, with its errors and exit statuses. A running tegula would hand over its ports,
 * interfaces and control socket on a reload, so they count as free.
 */

import { SystemError } from "../ffi/errno.ts";
import type { Host } from "../ffi/host.ts";
import type { Regions } from "../ffi/region.ts";
import { u32 } from "../ffi/view.ts";
import { Watcher } from "../ffi/watcher.ts";
import { AppFiles } from "../master/app_files.ts";
import { AppProcess, type Descriptors } from "../master/app_process.ts";
import { type MainLibraries, openLibraries } from "../master/libraries.ts";
import { controlPath } from "../master/listen.ts";
import {
  appTrouble,
  checkInterfaces,
  checkLimits,
  checkOccupants,
  checkPorts,
  checkPrivileges,
} from "../master/preflight.ts";
import { METRICS_BYTES, stateRegionBytes } from "../tiles/app/regions.ts";
import { APART_LINK_SHAPE, checkMtus, InterfaceError, portsOf } from "../tiles/runtime/plan.ts";
import { refusedCallsBytes } from "../ffi/tile.ts";
import { AppError } from "../tiles/runtime/log.ts";
import { TILE_REGION_BYTES, TileReader, within } from "../tiles/runtime/tile.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { checkConfig, listenText, planApps, readConfig, type RunConfig } from "./config.ts";
import { takeDefaults } from "./default_interfaces.ts";
import { Exit, UserError } from "./errors.ts";
import { openMirror } from "./snapshot.ts";

/** One finding, with the command that fixes it unless it is "ok". */
export interface Finding {
  /** "warn": Tegula runs, but not as well or not as the kernel would; "fail": it does not start so. */
  readonly verdict: "ok" | "warn" | "fail";
  readonly subject: string;
  readonly says: string;
  readonly fix?: string;
  /** The exit status of a start that fails here. */
  readonly status?: number;
}

/** What a running tegula says of itself. */
export interface Running {
  readonly interfaces: readonly string[];
  /** Those of them that have AF_XDP. */
  readonly xdp: readonly string[];
  readonly listen: readonly { readonly port: number; readonly last?: number }[];
}

/** The user of the processes that apps are made in, if this process may choose it. */
const UID = 65534;
/** Memory for an app that is to run inside net tiles. */
const INLINE_MEMORY_MIB = 256;
/** How long an app may take to start: as long as for an appliance. */
const START_MILLIS = 300_000;

/**
 * Yields a finding for each phase as it ends. `askRunning` asks the tegula that is running, by the control
 * socket that is configured.
 */
export async function* checkStart(
  values: Parameters<typeof readConfig>[0],
  askRunning: (control: string | undefined) => Promise<Running | null>,
): AsyncGenerator<Finding> {
  const libraries = openLibraries();
  const { host } = libraries;
  let config!: RunConfig;
  let apps!: readonly AppPlan[];
  const read = await phase("configuration", async () => {
    const asked = await readConfig(values);
    checkConfig(asked);
    apps = planApps(asked);
    const taken = asked.interfaces.length > 0
      ? []
      : takeDefaults(host, { isAllowed: false, log() {} });
    config = { ...asked, interfaces: [...asked.interfaces, ...taken] };
    return `${config.interfaces.join(" ")} answering ${listenText(config.listen)}`;
  });
  yield read;
  if (read.verdict !== "ok") return;

  const running = await askRunning(config.control);
  let hasStatus = running !== null;
  yield await phase("control socket", async () => {
    if (hasStatus) return "that of the running tegula";
    const path = await controlPath(config.control, { interfaces: config.interfaces, host });
    hasStatus = path !== null || config.metrics !== undefined;
    return path ?? "none";
  });
  yield await phase("privileges", () => {
    checkPrivileges(host, config);
    return "all that are needed";
  });
  yield await phase("interfaces", () => {
    checkInterfaces(host, config.interfaces);
    if (config.provider !== "socket") {
      const { mirror, reader } = openMirror({ log() {} });
      mirror.close();
      try {
        checkMtus(reader, config.interfaces);
      } catch (error) {
        if (!(error instanceof InterfaceError)) throw error;
        throw new UserError(error.message, Exit.interface);
      }
    }
    return config.interfaces.join(" ");
  });
  yield await phase("limits", () => {
    checkLimits(host, { ...config, apps, hasStatus, serves: running !== null });
    return "enough open files, locked memory and threads";
  });
  const served = running?.listen ?? [];
  const lines: string[] = [];
  yield await phase("ports", () => {
    const ours = portsOf(served.map(({ port, last = port }) => [port, last]));
    checkPorts(config, { libraries, ours, log: (line) => lines.push(line) });
    return "free, or held by the running tegula";
  });
  for (const line of lines) yield warn("ports", line, "stop it, or take other ports");
  yield await phase("XDP", () => {
    if (config.provider === "socket") return "not asked for";
    const interfaces = config.interfaces.filter((name) => !running?.xdp.includes(name));
    checkOccupants({ ...config, interfaces }, libraries);
    return "no other program than that of a running tegula";
  });
  for await (const { app, said, trouble } of makeApps(apps, libraries)) {
    yield await phase(`app ${app}`, () => {
      if (trouble instanceof AppError) throw appTrouble(trouble, { apps, file: config.file });
      if (trouble instanceof SystemError) throw new UserError(trouble.message, Exit.system);
      if (trouble !== undefined) throw trouble;
      return ["made", ...said].join("; ");
    });
  }
  yield* checkTypes(apps);
}

/** Runs `look`, which returns a sentence, or throws the UserError that a start would end with. */
async function phase(subject: string, look: () => Promise<string> | string): Promise<Finding> {
  try {
    return ok(subject, await look());
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { verdict: "fail", subject, says: error.message, status: error.status };
  }
}

/** Runs `deno check` on the modules that are TypeScript and not part of the program. */
async function* checkTypes(apps: readonly AppPlan[]): AsyncGenerator<Finding> {
  const program = new URL("..", import.meta.url).href;
  for (const module of new Set(apps.map(({ module }) => module))) {
    if (!/\.[cm]?tsx?$/.test(module) || module.startsWith(`${program}apps/`)) continue;
    const path = decodeURIComponent(new URL(module).pathname);
    if (Deno.build.standalone) {
      yield ok("types", `${path}: not checked: there is no deno here`);
      continue;
    }
    const child = new Deno.Command(Deno.execPath(), {
      args: ["check", "--quiet", "--no-lock", "--no-remote", path],
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
      ...{ stdin: "null", stdout: "null", stderr: "piped" },
    }).spawn();
    // It takes hundreds of megabytes. If the service has too little, this is the process to kill.
    Deno.writeTextFileSync(`/proc/${child.pid}/oom_score_adj`, "1000");
    const { success, stderr } = await child.output();
    const [first, ...more] = new TextDecoder().decode(stderr).trim().split("\n");
    const place = /at (file:\S+)/.exec(more.join("\n"))?.[1] ?? path;
    yield success
      ? ok("types", `${path}: no errors`)
      : warn("types", `${place}: ${first}`, `deno check ${path}`);
  }
}

/** An app that was made. */
interface MadeApp {
  readonly app: string;
  /** What it logged meanwhile. */
  readonly said: readonly string[];
  /** Why it could not be made: AppError, or SystemError. */
  readonly trouble?: unknown;
}

/**
 * Starts one instance of each app as a run does, in a process of its own but without its network grants,
 * and ends it before it answers anything.
 */
async function* makeApps(
  apps: readonly AppPlan[],
  { host, regions, processes, tile, observer }: MainLibraries,
): AsyncGenerator<MadeApp> {
  observer.start(u32(regions.create("refused calls", refusedCallsBytes(1)).writer));
  const files = new AppFiles({ host, processes, uid: UID });
  const shared = {
    ...{ regions, observer, files, slot: 0, tileLibrary: tile },
    processes,
    watcher: new Watcher(host, tile),
  };
  const served = [...new Set(apps.flatMap(({ ports }) => portsOf(ports)))];
  try {
    for (const [app, [plan]] of Map.groupBy(apps, ({ app }) => app)) {
      const said: string[] = [];
      const { name, module, options, ports, refuseSources, mostPerSecond, stateBytes } = plan;
      const service = {
        ...{ name, module, options, refuseSources, mostPerSecond, served },
        ports: portsOf(ports),
      };
      const descriptors = makeDescriptors(regions, host, stateBytes);
      const { fd } = descriptors.descriptor(`tile ${name}`, true);
      const process = new AppProcess({
        ...{ name, service, shape: APART_LINK_SHAPE, nets: [], spinTurns: 0, uid: UID },
        grants: { ...plan.grants, net: [] },
        memoryMib: plan.memoryMib ?? INLINE_MEMORY_MIB,
        ...(stateBytes !== undefined && { stateBytes: stateRegionBytes(stateBytes) }),
      }, {
        ...{ ...shared, descriptors },
        tile: new TileReader(regions.mapShared(fd, TILE_REGION_BYTES, { readOnly: true })),
        log: (line) => said.push(line.replace(`${name}: `, "")),
      });
      try {
        if (!await within(process.prepare(), START_MILLIS)) {
          throw new AppError(name, "it did not start in time");
        }
        yield { app, said };
      } catch (trouble) {
        yield { app, said, trouble };
      } finally {
        await process.stop();
      }
    }
  } finally {
    files.close();
  }
}

/** An app's own regions and eventfds, each made when it is first asked for. */
function makeDescriptors(
  regions: Pick<Regions, "createShared">,
  host: Pick<Host, "eventfd">,
  stateBytes = 0,
): Descriptors {
  const state = stateRegionBytes(stateBytes);
  const sizes = { tile: TILE_REGION_BYTES, metrics: METRICS_BYTES, state };
  const made = new Map<string, ReturnType<Regions["createShared"]>>();
  return {
    descriptor(name, readOnly) {
      const [kind] = name.split(" ");
      if (kind === "eventfd") return { fd: host.eventfd(), bytes: 0 };
      const bytes = sizes[kind as keyof typeof sizes];
      const region = made.getOrInsertComputed(name, () => regions.createShared(name, bytes));
      return { fd: readOnly ? region.readOnly : region.writable, bytes };
    },
  };
}

/** A finding that all is well. */
export function ok(subject: string, says: string): Finding {
  return { verdict: "ok", subject, says };
}

/** A finding that Tegula runs with. `fix` is the command that fixes it. */
export function warn(subject: string, says: string, fix: string): Finding {
  return { verdict: "warn", subject, says, fix };
}

/** A finding that keeps Tegula from starting. `fix` is the command that fixes it. */
export function fail(subject: string, says: string, fix: string): Finding {
  return { verdict: "fail", subject, says, fix };
}
