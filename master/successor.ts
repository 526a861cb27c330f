// SPDX-License-Identifier: Apache-2.0
/**
 * Prepares a successor before it takes over: its plan, regions and eventfds, sockets and XDP
 * programs, the process of its appliance, and the apps to start for it.
 */

import { COMMIT, messageOf, UserError, VERSION } from "../cli/command.ts";
import type { RunConfig } from "../cli/config.ts";
import type { Watcher } from "../ffi/host.ts";
import { libraryPath, programModule } from "../ffi/library.ts";
import { type ConfinedProcess, RUN_FLAGS, SUCCESSOR_ENV, V8_FLAGS } from "../ffi/process.ts";
import { slice } from "../ffi/region.ts";
import { FILTER_BYTES } from "../ffi/shared.ts";
import { stateRegionBytes } from "../tiles/app/regions.ts";
import type { CountedTile } from "../tiles/runtime/counters.ts";
import { Level } from "../tiles/runtime/log.ts";
import { FRAME_BYTES, permissionFlags, planTiles, portsServed } from "../tiles/runtime/plan.ts";
import { spinTurnsFor, TileReader } from "../tiles/runtime/tile.ts";
import {
  type ApplianceSetup,
  type AppPlan,
  besideSetup,
  inlineGrants,
  KEPT_REGIONS,
  linkShape,
  netName,
  PAST_COUNTERS,
  pastCounters,
  regionsOf,
  servicePlan,
  tilesOf,
} from "../tiles/runtime/wiring.ts";
import type { AppFiles, StagedApp } from "./app_files.ts";
import { AppProcess, type AppProcessParts, type AppProcessPlan } from "./app_process.ts";
import { ApplianceProcess, type Ask } from "./appliance_process.ts";
import { Attachment } from "./attachment.ts";
import type { MainLibraries } from "./confinement.ts";
import {
  APPLIANCE_SLOT,
  type Handing,
  handing,
  type Holdings,
  Inventory,
  orderOf,
  stateName,
} from "./inventory.ts";
import { log, prefix } from "./log.ts";
import type { Carried } from "./master.ts";
import * as preflight from "./preflight.ts";
import type { StatusAddresses } from "./preflight.ts";
import type { Report } from "./report.ts";

/** What to serve, read from the configuration and checked. */
export interface Run {
  readonly config: RunConfig;
  readonly apps: readonly AppPlan[];
  /** Ports and apps, for the log: `7=echo 5300-5363=dns*2`. */
  readonly answering: string;
  readonly addresses: StatusAddresses;
}

/** A handover from `before` to a successor that serves `run`. */
export interface Handover {
  readonly run: Run;
  /** The serving appliance, if there is one. */
  readonly before?: Serving;
  /** Whether nothing has served yet. The successor may then take any time to become ready. */
  readonly isFirst?: boolean;
  /** Whether to take over nothing of the predecessor. */
  readonly isCold?: boolean;
  /** Whether to use only the kernel's sockets, because AF_XDP has failed. */
  readonly isSocketsOnly?: boolean;
}

/** The handover failed, and is to be repeated with these changes. */
export class Retry extends Error {
  readonly changes: Partial<Handover>;

  constructor(message: string, changes: Partial<Handover>) {
    super(message);
    this.changes = changes;
  }
}

/** One appliance with its apps, and what they were started with. */
export interface Serving {
  readonly run: Run;
  readonly setup: ApplianceSetup;
  /** Regions that the next appliance takes over in a warm handover. */
  readonly inventory: Inventory;
  /** The regions that only this appliance has. */
  readonly fresh: Inventory;
  /** Files of inline apps that this appliance was started from. */
  readonly staged: readonly StagedApp[];
  readonly attachments: readonly Attachment[];
  readonly appliance: ApplianceProcess;
  /** Apps that are processes, by name. */
  readonly apps: ReadonlyMap<string, AppProcess>;
  /** All tiles. `past` has the counts of their predecessors, and is updated here. */
  readonly tiles: readonly CountedTile[];
  /** The apps that are started for it. */
  readonly changed: readonly ChangedApp[];
}

interface ChangedApp {
  readonly process: AppProcess;
  readonly plan: AppProcessPlan;
}

/** Starts successors, for the master. `appChanged`: the state of an app has changed. */
export function successors(
  { libraries, watcher, holdings, files, report, ask, appChanged }: {
    libraries: MainLibraries;
    watcher: Watcher;
    holdings: Holdings;
    files: AppFiles;
    report: Report;
    ask: Ask;
    appChanged(): void;
  },
) {
  const { host, processes, regions, xskSetup } = libraries;
  /** The index of each interface when AF_XDP was last tried on it; 0 if it did not exist. */
  const tried = new Map<string, number>();

  /** Starts an appliance, and finds the apps that have to be started. Throws Retry. */
  async function start(handover: Handover): Promise<Serving> {
    const { run, before } = handover;
    const ports = holdings.takePorts(portsServed(run.apps));
    const listeners = holdings.listeners(run.addresses);
    holdings.takeTcp(run.apps);
    const { setup: planned, attachments, isWarm } = planSuccessor(handover, ports);
    const inventory = isWarm ? before!.inventory : new Inventory(libraries);
    const fresh = new Inventory(libraries, { below: inventory });
    const staged: StagedApp[] = [];
    const discardStaged = () => staged.forEach((app) => files.discard(app));
    try {
      makeRegions(planned, { config: run.config, attachments, inventory, fresh, isWarm });
      const setup = { ...planned, apps: await stageInline(planned.apps, staged) };
      const { apps, changed } = planApps(setup, inventory, isWarm ? before : undefined);
      const appliance = startAppliance(setup, { fresh, attachments, listeners });
      void appliance.ended.then(discardStaged);
      const tiles = readersOf(setup, fresh);
      return {
        ...{ run, setup, inventory, fresh, staged, attachments },
        ...{ appliance, apps, tiles, changed },
      };
    } catch (error) {
      discardStaged();
      fresh.close();
      if (!isWarm) discard(attachments, inventory);
      throw error;
    }
  }

  /**
   * The successor's setup, its XDP programs, and whether it takes over the regions, rings and sockets of its
   * predecessor. Throws UserError.
   */
  function planSuccessor(
    { run, before, isFirst, isCold, isSocketsOnly }: Handover,
    ports: readonly number[],
  ): { setup: ApplianceSetup; attachments: readonly Attachment[]; isWarm: boolean } {
    const { config } = run;
    const hasPredecessor = before !== undefined && !before.appliance.over;
    // Interfaces that are already served may be down.
    const known = isFirst ? [] : (before?.run ?? run).config.interfaces;
    const awaited = config.interfaces.filter((name) => !known.includes(name));
    const plan = (names: readonly string[]) => {
      const setup = setupOf(run, { names, ports, awaited, hasPredecessor });
      return { setup, isWarm: !isCold && before !== undefined && isSame(before, run, setup) };
    };
    const names = isSocketsOnly || config.provider === "socket" ? [] : fit(config);
    const planned = plan(names);
    if (names.length > 0 && planned.isWarm) {
      return { ...planned, attachments: before!.attachments };
    }
    if (!planned.isWarm && !isSocketsOnly) {
      for (const name of config.interfaces) {
        tried.set(name, host.ifindex(name));
      }
    }
    const attachments = loadPrograms(config, names, before?.attachments ?? []);
    if (attachments.length > 0) return { ...planned, attachments };
    // A serving Tegula continues with the available ports.
    if (isFirst || !isSocketsOnly) preflight.requireSockets(portsServed(run.apps), ports);
    return { ...plan([]), attachments };
  }

  /**
   * Loads the XDP program for each interface. If this fails, provider `auto` continues without
   * AF_XDP and logs why. `replaced` stay until the new attachments replace them.
   */
  function loadPrograms(
    { provider, dispatcher }: RunConfig,
    names: readonly string[],
    replaced: readonly Attachment[],
  ): Attachment[] {
    try {
      return names.map((name) =>
        new Attachment(xskSetup, {
          ...{ name, dispatcher, map: regions.mapShared },
          ifindex: host.ifindex(name),
          queues: preflight.queues(host, name),
          notNative: preflight.NOT_NATIVE[host.driver(name)] ?? "",
          replaces: replaced.find((each) => each.name === name),
        })
      );
    } catch (error) {
      preflight.fallBack(error, { interfaces: names, provider });
      return [];
    }
  }

  /** Creates missing regions, and AF_XDP sockets on them. Throws Retry. */
  function makeRegions(
    setup: ApplianceSetup,
    { config, attachments, inventory, fresh, isWarm }:
      & Pick<Serving, "attachments" | "inventory" | "fresh">
      & { config: RunConfig; isWarm: boolean },
  ): void {
    try {
      for (const { name, bytes, fresh: isFresh } of regionsOf(setup)) {
        if (!KEPT_REGIONS.has(name)) (isFresh ? fresh : inventory).ensure(name, bytes);
      }
      if (isWarm) return;
      const queues = queuesOf(setup, inventory);
      attachments.forEach((attachment, i) => attachment.prepare(queues[i]));
    } catch (error) {
      if (isWarm || attachments.length === 0) throw error;
      // For example, if the kernel lacks the socket family.
      preflight.fallBack(error, config);
      throw new Retry(messageOf(error), { isSocketsOnly: true });
    }
  }

  /** The apps that are processes: all of them, and those that have to be started. */
  function planApps(
    setup: ApplianceSetup,
    inventory: Inventory,
    before?: Serving,
  ): Pick<Serving, "apps" | "changed"> {
    const apps = new Map<string, AppProcess>();
    const changed: ChangedApp[] = [];
    for (const app of setup.apps.filter(({ inline }) => !inline)) {
      const plan = appPlan(app, setup);
      if (plan.stateBytes !== undefined) {
        holdings.own.ensure(stateName(plan.name, plan.stateBytes), plan.stateBytes);
      }
      const process = before?.apps.get(app.name) ??
        new AppProcess(plan, appParts(app.name, inventory));
      apps.set(app.name, process);
      if (!process.isMadeFrom(plan)) changed.push({ process, plan });
    }
    return { apps, changed };
  }

  /**
   * The apps. Inline ones get modules that the appliance's user can read, which are added to `staged`. Throws
   * AppError.
   */
  async function stageInline(apps: readonly AppPlan[], staged: StagedApp[]): Promise<AppPlan[]> {
    const uid = holdings.uid(0);
    const all = await Promise.allSettled(apps.map(async (app) => {
      if (!app.inline) return app;
      const made = await files.stage({ name: app.name, service: app, uid });
      staged.push(made);
      const { module, read } = made;
      return { ...app, module, grants: { ...app.grants, read: [...app.grants.read, ...read] } };
    }));
    return all.map((each) => {
      if (each.status === "rejected") throw each.reason;
      return each.value;
    });
  }

  /** The interfaces that exist and are fit for AF_XDP. */
  function fit({ interfaces, provider }: RunConfig): string[] {
    return interfaces.filter((name) => {
      if (host.ifindex(name) === 0) return false;
      const why = preflight.unfit(host, name);
      if (why !== null) preflight.fallBack(new Error(why), { interfaces: [name], provider });
      return why === null;
    });
  }

  function setupOf(
    { config, apps, addresses }: Run,
    { names, ports, awaited, hasPredecessor }: {
      names: readonly string[];
      ports: readonly number[];
      awaited: readonly string[];
      hasPredecessor: boolean;
    },
  ): ApplianceSetup {
    return {
      plan: planTiles({
        queues: names.map((name) => preflight.queues(host, name)),
        cores: navigator.hardwareConcurrency,
        apps,
        ...(config.netTiles !== undefined && { netTiles: config.netTiles }),
      }),
      apps,
      attached: names.map((name) => ({
        name,
        ifindex: host.ifindex(name),
        transmitQueues: preflight.transmitQueues(host, name),
        partialChecksums: preflight.partialChecksums(host, name),
      })),
      interfaces: awaited,
      hasPredecessor,
      sockets: ports,
      slots: Object.fromEntries(
        apps.filter(({ inline }) => !inline).map(({ name }) => [name, holdings.slot(name)]),
      ),
      build: { version: VERSION, commit: COMMIT },
      trustChecksums: config.checksums === "nic",
      listens: { control: addresses.control !== null, metrics: addresses.metrics !== null },
    };
  }

  function startAppliance(
    setup: ApplianceSetup,
    { fresh, attachments, listeners }:
      & Pick<Serving, "fresh" | "attachments">
      & { listeners: readonly Handing[] },
  ): ApplianceProcess {
    const handings: Handing[] = [
      ...regionsOf(setup).flatMap(({ name, writer }) => [
        ...writer === "appliance" ? [fresh.region(name, { writable: true })] : [],
        KEPT_REGIONS.has(name) ? holdings.own.region(name) : fresh.region(name),
      ]),
      ...tilesOf(setup).filter(({ inside }) => inside === undefined)
        .map(({ name }) => fresh.eventfd(name)),
      ...holdings.sockets(
        setup.sockets,
        new Set(portsServed(setup.apps.filter(({ packetTimes }) => packetTimes))),
      ),
      ...attachments.flatMap(({ descriptors }) => descriptors).map(({ name, fd }) => ({
        ...handing(name, fd),
        ...(name.startsWith("filter ") && { bytes: FILTER_BYTES }),
      })),
      ...listeners,
    ];
    const { root } = files;
    const program = programModule("", root);
    const library = libraryPath(root);
    const { read, clock } = inlineGrants(setup.apps);
    const order = orderOf(regions, handings, setup);
    try {
      const child = processes.start({
        name: "appliance",
        role: "appliance",
        args: [
          ...RUN_FLAGS,
          V8_FLAGS,
          ...permissionFlags(
            { read: [program, ...read], ffi: [library] },
            (sentence) => new UserError(sentence),
          ),
          `--import-map=${programModule("imports.json", root)}`,
          programModule("tiles/runtime/appliance.ts", root),
          String(order.bytes),
        ],
        descriptors: order.descriptors,
        ...(setup.hasPredecessor && { env: SUCCESSOR_ENV }),
        read: [program, library, ...read],
        clock,
        uid: holdings.uid(0),
        netAdmin: true,
      });
      report.lack("appliance", child);
      return watched(child);
    } finally {
      order.close();
    }
  }

  /** The appliance of a process. `isRunning`: the previous program started it. */
  function watched(child: ConfinedProcess, isRunning = false): ApplianceProcess {
    const { listener, words } = child;
    // Its lines contain the names of its tiles.
    const how = { name: `${prefix(Level.error)}appliance`, slot: APPLIANCE_SLOT, verbatim: true };
    libraries.observer.hear({ ...how, listener, words });
    return new ApplianceProcess(child, { watcher, ask, isRunning });
  }

  function appPlan(app: AppPlan, { apps, plan: { frames } }: ApplianceSetup): AppProcessPlan {
    const busy = frames.length + apps.filter(({ inline }) => !inline).length;
    return {
      name: app.name,
      service: servicePlan(app, portsServed(apps)),
      shape: linkShape(app, apps),
      nets: frames.map((_, n) => netName(n)),
      spinTurns: spinTurnsFor(busy, navigator.hardwareConcurrency),
      grants: app.grants,
      memoryMib: app.memoryMib!,
      ...(app.stateBytes !== undefined && { stateBytes: stateRegionBytes(app.stateBytes) }),
      uid: holdings.uid(1 + holdings.slot(app.name)),
      ...(app.beside && { beside: besideSetup(app) }),
    };
  }

  function appParts(name: string, inventory: Inventory): AppProcessParts {
    return {
      ...{ libraries, log, watcher, files },
      slot: holdings.slot(name),
      changed: (restarted) => {
        if (restarted !== undefined) report.restarted(restarted);
        appChanged();
      },
      descriptor: (each, readOnly, bytes) => {
        if (each.startsWith("tcp ")) return holdings.accepting(each.slice(4));
        if (bytes === undefined) return inventory.descriptor(each, readOnly);
        // The state of an app outlasts its other regions.
        const held = stateName(name, bytes);
        return { ...holdings.own.region(held, { writable: true }), name: each };
      },
      tile: new TileReader(inventory.view(`tile ${name}`)),
    };
  }

  /** The serving appliance that the previous program started. */
  function adopt({ run, setup, ...carried }: Carried): Serving {
    for (const name of run.config.interfaces) tried.set(name, host.ifindex(name));
    const inventory = new Inventory(libraries, { before: carried.inventory });
    const fresh = new Inventory(libraries, { before: carried.fresh, below: inventory });
    const { staged } = carried;
    const { dispatcher } = run.config;
    const attachments = carried.attachments.map(({ name, ifindex, queues, state: before }) =>
      new Attachment(xskSetup, {
        ...{ name, ifindex, queues, dispatcher, before, map: regions.mapShared },
      })
    );
    const process = processes.adopt(carried.appliance);
    const appliance = watched(process, true);
    const apps = new Map(carried.apps.map(([name, known]) => [
      name,
      AppProcess.adopt(known, appParts(name, inventory)),
    ]));
    void appliance.ended.then(() => staged.forEach((app) => files.discard(app)));
    const tiles = readersOf(setup, fresh);
    return {
      ...{ run, setup, inventory, fresh, staged, attachments, appliance, apps, tiles },
      changed: [],
    };
  }

  return { start, adopt, tried };
}

function readersOf(setup: ApplianceSetup, regions: Inventory): CountedTile[] {
  const past = regions.view(PAST_COUNTERS, { writable: true });
  return tilesOf(setup).map(({ kind, name }, i) => ({
    ...{ kind, name, reader: new TileReader(regions.view(`tile ${name}`)) },
    past: pastCounters(past, i),
  }));
}

/** Whether `setup` fits the regions, rings and sockets of `before`. */
function isSame(before: Serving, { config }: Run, setup: ApplianceSetup): boolean {
  const shape = (config: RunConfig, setup: ApplianceSetup) =>
    JSON.stringify([
      setup.attached,
      setup.plan,
      [config.provider, config.dispatcher, config.busyPoll],
      regionsOf(setup).filter(({ fresh }) => !fresh).map(({ name, bytes }) => [name, bytes]),
    ]);
  return shape(before.run.config, before.setup) === shape(config, setup);
}

/** The queues of each interface, each with the UMEM of its net tile. */
function queuesOf({ attached, plan: { frames, shares } }: ApplianceSetup, inventory: Inventory) {
  const umems = frames.map((count, n) =>
    slice(inventory.view(`umem ${netName(n)}`, { writable: true }), 0, count * FRAME_BYTES)
  );
  return attached.map((_, i) =>
    shares.filter((share) => share.interface === i)
      .map(({ queue, netTile }) => ({ queue, umem: umems[netTile] }))
  );
}

/** Closes resources that no process uses. */
export function discard(attachments: readonly Attachment[], inventory: Inventory): void {
  for (const attachment of attachments) attachment.unload();
  inventory.close();
}
