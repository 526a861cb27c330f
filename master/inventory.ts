// SPDX-License-Identifier: Apache-2.0
/**
 * The master's regions, eventfds, sockets and slots of apps. It passes copies of the descriptors to
 * processes (`tiles/runtime/handed.ts`) and keeps its own, so that the successor of a process gets
 * the same ones. An `Inventory` has the regions and eventfds of one set of tiles, and `Holdings`
 * everything that outlasts it.
 */

import { rmSync } from "node:fs";
import type { Host } from "../ffi/host.ts";
import { type Regions, type SharedRegion, u8, type View } from "../ffi/region.ts";
import { Exit, UserError } from "../cli/command.ts";
import { stateRegionBytes } from "../tiles/app/regions.ts";
import type { HandedDescriptor, HandedSetup } from "../tiles/runtime/handed.ts";
import { APP_SLOTS, type AppPlan, besideSetup } from "../tiles/runtime/wiring.ts";
import type { MainLibraries } from "./confinement.ts";
import { listenAt, listenControl, reasonOf, type StatusAddresses } from "./preflight.ts";
import type { Serving } from "./successor.ts";

interface HeldRegion extends SharedRegion {
  readonly bytes: number;
  /** The master's own mappings, made on demand. */
  writer?: View;
  reader?: View;
}

export interface Handing extends HandedDescriptor {
  readonly fd: number;
}

interface Order {
  /** The descriptors, the memfd with the JSON first (`SETUP_DESCRIPTOR`). */
  readonly descriptors: readonly number[];
  /** Bytes of the JSON: the process's last argument. */
  readonly bytes: number;
  /** Closes the memfd, once the process has been started. */
  close(): void;
}

/** A descriptor to be handed over that is not a region. */
export function handing(name: string, fd: number): Handing {
  return { name, fd, bytes: 0, readOnly: false };
}

/** An inventory as plain data, for the master's next program. */
export interface InventoryState {
  readonly regions: readonly (readonly [name: string, region: SharedRegion & { bytes: number }])[];
  readonly eventfds: readonly (readonly [name: string, fd: number])[];
}

/** Regions and eventfds by their names. */
export class Inventory {
  readonly #regions: Regions;
  readonly #host: Pick<Host, "eventfd">;
  readonly #held = new Map<string, HeldRegion>();
  readonly #eventfds = new Map<string, number>();
  readonly #below?: Inventory;

  /**
   * `before`: its `state` from the master's previous program. `below`: the inventory with the
   * regions that are missing here, and all eventfds.
   */
  constructor(
    { regions, host }: { regions: Regions; host: Pick<Host, "eventfd"> },
    { before, below }: { before?: InventoryState; below?: Inventory } = {},
  ) {
    this.#regions = regions;
    this.#host = host;
    this.#below = below;
    for (const [name, region] of before?.regions ?? []) this.#held.set(name, { ...region });
    for (const [name, fd] of before?.eventfds ?? []) this.#eventfds.set(name, fd);
  }

  get state(): InventoryState {
    return {
      regions: [...this.#held].map(([name, { writable, readOnly, bytes }]) => [
        name,
        { writable, readOnly, bytes },
      ]),
      eventfds: [...this.#eventfds],
    };
  }

  get descriptors(): number[] {
    const held = [...this.#held.values()];
    return [
      ...held.flatMap(({ writable, readOnly }) => [writable, readOnly]),
      ...this.#eventfds.values(),
    ];
  }

  /** Creates the region `name`, and replaces one of another size. Throws SystemError. */
  ensure(name: string, bytes: number): void {
    if (this.#held.get(name)?.bytes === bytes) return;
    this.drop(name);
    this.#held.set(name, { ...this.#regions.createShared(name, bytes), bytes });
  }

  /** Closes a region. Processes that mapped it keep it. */
  drop(name: string): void {
    const held = this.#held.get(name);
    if (held === undefined) return;
    this.#regions.close(held.writable);
    this.#regions.close(held.readOnly);
    this.#held.delete(name);
  }

  /** The master's own view of a region. Throws RangeError, SystemError. */
  view(name: string, { writable = false } = {}): View {
    const held = this.#find(name);
    const { bytes } = held;
    return writable
      ? held.writer ??= this.#regions.mapShared(held.writable, bytes)
      : held.reader ??= this.#regions.mapShared(held.readOnly, bytes, { readOnly: true });
  }

  #find(name: string): HeldRegion {
    const held = this.#held.get(name);
    if (held !== undefined) return held;
    if (this.#below !== undefined) return this.#below.#find(name);
    throw new RangeError(`there is no region ${name}`);
  }

  /** The region's descriptor for its writer or for readers. Throws RangeError. */
  region(name: string, { writable = false } = {}): Handing {
    const held = this.#find(name);
    const fd = writable ? held.writable : held.readOnly;
    return { name, fd, bytes: held.bytes, readOnly: !writable };
  }

  /** The eventfd of this name, created on demand. Throws Error. */
  eventfd(name: string): Handing {
    if (this.#below !== undefined) return this.#below.eventfd(name);
    const fd = this.#eventfds.get(name) ?? this.#host.eventfd();
    this.#eventfds.set(name, fd);
    return handing(`eventfd ${name}`, fd);
  }

  /** Closes everything. Processes keep their copies. */
  close(): void {
    for (const name of [...this.#held.keys()]) this.drop(name);
    for (const fd of this.#eventfds.values()) this.#regions.close(fd);
    this.#eventfds.clear();
  }

  /** A region or eventfd by its name in `handed.ts`. Throws RangeError. */
  descriptor(name: string, readOnly: boolean): Handing {
    const [, tile] = /^eventfd (.*)$/.exec(name) ?? [];
    return tile === undefined ? this.region(name, { writable: !readOnly }) : this.eventfd(tile);
  }
}

/** The order for a process that gets `handings` by name. Throws SystemError. */
export function orderOf<Setup>(
  regions: Pick<Regions, "createShared" | "mapShared" | "close">,
  handings: readonly Handing[],
  setup: Setup,
): Order {
  const descriptors = handings.map(({ name, bytes, readOnly }) => ({ name, bytes, readOnly }));
  const { fd, bytes } = shareJson(
    regions,
    "setup",
    { descriptors, setup } satisfies HandedSetup<Setup>,
  );
  return {
    descriptors: [fd, ...handings.map((handing) => handing.fd)],
    bytes,
    close: () => void regions.close(fd),
  };
}

/** A read-only memfd with `what` as JSON, and its length. Throws SystemError. */
export function shareJson(
  regions: Pick<Regions, "createShared" | "mapShared" | "close">,
  name: string,
  what: unknown,
): { readonly fd: number; readonly bytes: number } {
  const text = new TextEncoder().encode(JSON.stringify(what));
  const { writable, readOnly } = regions.createShared(name, text.length);
  u8(regions.mapShared(writable, text.length)).set(text);
  regions.close(writable);
  return { fd: readOnly, bytes: text.length };
}

/**
 * If the master may change users, its processes get users that no distribution assigns (systemd's
 * "Users, Groups, UIDs and GIDs"). They depend on its PID, because the kernel counts threads by
 * user, and another Tegula may run here.
 */
const FIRST_UID = 0x7000_0000;
/** Users of one master; the appliance has the first. The last 20 bits of the PID are used. */
const USERS = 256;
/** The slot of the appliance, after those of all apps. */
export const APPLIANCE_SLOT = APP_SLOTS - 1;

/** The name of an app's state region. While a successor with another size takes over, there are two. */
export function stateName(app: string, bytes: number): string {
  return `state ${bytes} ${app}`;
}

/** Holdings as plain data, for the master's next program. */
export interface HoldingsState {
  readonly own: InventoryState;
  readonly sockets: readonly (readonly [name: string, fd: number])[];
  readonly slots: readonly (readonly [name: string, slot: number])[];
  readonly past: readonly (readonly [tile: string, counters: readonly number[]])[];
}

/** Everything that outlasts an appliance. */
export type Holdings = ReturnType<typeof openHoldings>;

/** `user`: the first user, if configured. `before`: the `state` from this process's previous program. */
export function openHoldings(
  libraries: MainLibraries,
  { user, before }: { user?: number; before?: HoldingsState },
) {
  const { host, udpSetup } = libraries;
  const firstUid = user ?? FIRST_UID + (Deno.pid & 0xfffff) * USERS;
  const own = new Inventory(libraries, { before: before?.own });
  /** Kernel sockets of served ports, listening sockets of the status tile by address, and those of slow sides. */
  const sockets = new Map(before?.sockets);
  /** By app: the slot that counts its refused calls and determines its user. */
  const slots = new Map(before?.slots);
  /** The counts of tiles whose regions were replaced. */
  const past = new Map(before?.past.map(([name, past]) => [name, Float64Array.from(past)]));

  /** The socket `name`, which `make` creates on demand. Throws UserError with the address `is`. */
  function listen(name: string, is: string, make: () => number): number {
    try {
      const fd = sockets.get(name) ?? make();
      sockets.set(name, fd);
      return fd;
    } catch (error) {
      throw new UserError(`cannot listen at ${is}: ${reasonOf(error)}`, Exit.port);
    }
  }

  function socket(name: string): Handing {
    return handing(name, sockets.get(name)!);
  }

  return {
    /** Regions that the master writes, and the states of apps. */
    own,
    slots: slots as ReadonlyMap<string, number>,
    get state(): HoldingsState {
      return {
        own: own.state,
        ...{ sockets: [...sockets], slots: [...slots] },
        past: [...past].map(([name, past]) => [name, [...past]]),
      };
    },
    get descriptors(): number[] {
      return [...own.descriptors, ...sockets.values()];
    },
    /** The user of the appliance (0) or of the app with slot `n - 1`. Apps share users if there are too few. */
    uid: (n: number): number => firstUid + (n === 0 ? 0 : 1 + (n - 1) % (USERS - 1)),
    /** The slot of an app, assigned by the first call. Throws UserError. */
    slot(name: string): number {
      const known = slots.get(name);
      if (known !== undefined) return known;
      const taken = new Set(slots.values());
      let slot = 0;
      while (taken.has(slot)) slot++;
      if (slot >= APPLIANCE_SLOT) {
        throw new UserError(`more than ${slot} instances of apps are too many`);
      }
      slots.set(name, slot);
      return slot;
    },
    /**
     * Binds kernel sockets to the `wanted` ports that no other program holds, all at once, so that
     * their descriptors form a range, to which tiles can be confined. Returns the ports with sockets.
     */
    takePorts(wanted: readonly number[]): number[] {
      const isOpen = (port: number) => sockets.has(`udp ${port}`);
      const missing = wanted.filter((port) => !isOpen(port));
      for (const port of missing) {
        const fd = udpSetup.open(port, missing.length);
        if (fd >= 0) sockets.set(`udp ${port}`, fd);
      }
      return wanted.filter(isOpen);
    },
    /** The kernel sockets of `ports`. Those in `timed` timestamp each datagram. */
    sockets: (ports: readonly number[], timed: ReadonlySet<number>): Handing[] =>
      ports.map((port) => {
        const taken = socket(`udp ${port}`);
        udpSetup.setTimes(taken.fd, timed.has(port));
        return taken;
      }),
    /** The listening sockets at these addresses. Throws UserError. */
    listeners({ control, metrics }: StatusAddresses): Handing[] {
      const addresses = [
        // Last, because the control socket has to be removed at the end.
        ["metrics", metrics, () => listenAt(host, metrics!)],
        ["control", control, () => listenControl(host, control!)],
      ] as const;
      return addresses.flatMap(([name, address, make]) =>
        address === null
          ? []
          : [handing(`listen ${name}`, listen(address, `${address} (--${name})`, make))]
      );
    },
    /** Opens the listening sockets of slow sides. Throws UserError. */
    takeTcp(apps: readonly AppPlan[]): void {
      for (const place of tcpPlaces(apps)) {
        listen(`tcp ${place}`, `TCP ${place} ([apps] tcp)`, () => listenAt(host, place));
      }
    },
    /** The listening socket at `ADDRESS:PORT`. */
    accepting: (place: string): Handing => socket(`tcp ${place}`),
    /** Adds a tile's counts, before its region is replaced. */
    keepCounters(tile: string, counters: Float64Array): void {
      const before = past.get(tile) ?? new Float64Array(counters.length);
      past.set(tile, before.map((count, i) => count + counters[i]));
    },
    /** A tile's counts from regions before the current one. */
    pastCounters: (tile: string): ArrayLike<number> => past.get(tile) ?? [],
    /**
     * Closes and forgets all that `used` does not need; without `used`, everything. Returns the
     * apps that lost their slots.
     */
    release(used?: Pick<Serving, "run" | "setup" | "apps">): string[] {
      const { control = null, metrics = null } = used?.run.addresses ?? {};
      const needed = new Set([
        ...[control, metrics],
        ...tcpPlaces(used?.setup.apps ?? []).map((place) => `tcp ${place}`),
        ...(used?.setup.sockets ?? []).map((port) => `udp ${port}`),
      ]);
      for (const [name, fd] of sockets) {
        if (needed.has(name)) continue;
        host.close(fd);
        sockets.delete(name);
        // The file of the control socket.
        if (name.startsWith("/")) rmSync(name, { force: true });
      }
      const states = new Set(
        used?.setup.apps.map(({ name, stateBytes }) =>
          stateName(name, stateBytes === undefined ? 0 : stateRegionBytes(stateBytes))
        ),
      );
      for (const [name] of own.state.regions) {
        if (name.startsWith("state ") && !states.has(name)) own.drop(name);
      }
      const gone = [...slots.keys()].filter((name) => !used?.apps.has(name));
      for (const name of gone) slots.delete(name);
      return gone;
    },
  };
}

/** The addresses where slow sides accept connections, without duplicates. */
function tcpPlaces(apps: readonly AppPlan[]): string[] {
  const all = apps.flatMap((app) => besideSetup(app)?.tcp ?? []);
  return [...new Set(all.map(({ address, port }) => `${address}:${port}`))];
}
