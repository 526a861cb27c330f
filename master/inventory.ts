/**
 * What the master holds for the others, by name: regions, eventfds, sockets. It hands copies of the
 * descriptors to processes (`tiles/runtime/handed.ts`) and keeps its own, so that whoever ends leaves
 * everything to a successor.
 */

import type { Host } from "../ffi/host.ts";
import { type Regions, type SharedRegion, u8, type View } from "../ffi/region.ts";
import type { HandedDescriptor, HandedSetup } from "../tiles/runtime/handed.ts";

/** A region that the master holds. */
interface HeldRegion extends SharedRegion {
  readonly bytes: number;
  /** The master's own mappings, made when they are asked for. */
  writer?: View;
  reader?: View;
}

/** A descriptor to be handed over. */
export interface Handing extends HandedDescriptor {
  readonly fd: number;
}

/** What a process is started with. */
export interface Order {
  /** The descriptors, the memfd with the JSON first (`SETUP_DESCRIPTOR`). */
  readonly descriptors: readonly number[];
  /** Bytes of that JSON: the process's last argument. */
  readonly bytes: number;
  /** Closes the memfd, once the process has been started. */
  close(): void;
}

/** An inventory's descriptors by name: for the program that the master becomes. */
export interface InventoryState {
  readonly regions: readonly (readonly [name: string, region: SharedRegion & { bytes: number }])[];
  readonly eventfds: readonly (readonly [name: string, fd: number])[];
}

/** The master's descriptors. */
export class Inventory {
  readonly #regions: Regions;
  readonly #host: Pick<Host, "eventfd">;
  readonly #held = new Map<string, HeldRegion>();
  readonly #eventfds = new Map<string, number>();

  /** With `before`, which is what `state` was before the master executed another program, goes on with that. */
  constructor(
    { regions, host }: { regions: Regions; host: Pick<Host, "eventfd"> },
    before?: InventoryState,
  ) {
    this.#regions = regions;
    this.#host = host;
    for (const [name, region] of before?.regions ?? []) this.#held.set(name, { ...region });
    for (const [name, fd] of before?.eventfds ?? []) this.#eventfds.set(name, fd);
  }

  /** All that there is. */
  get state(): InventoryState {
    return {
      regions: [...this.#held].map(([name, { writable, readOnly, bytes }]) => [
        name,
        { writable, readOnly, bytes },
      ]),
      eventfds: [...this.#eventfds],
    };
  }

  /** Every descriptor. */
  get descriptors(): number[] {
    const regions = [...this.#held.values()].flatMap((
      { writable, readOnly },
    ) => [writable, readOnly]);
    return [...regions, ...this.#eventfds.values()];
  }

  /** Has there be a region of this name and size: the one that is there, or a new one. Throws SystemError. */
  ensure(name: string, bytes: number): void {
    if (this.#held.get(name)?.bytes === bytes) return;
    this.renew(name, bytes);
  }

  /** Puts a new region in place of any of this name; who has the old one keeps it. Throws SystemError. */
  renew(name: string, bytes: number): void {
    this.drop(name);
    this.#held.set(name, { ...this.#regions.createShared(name, bytes), bytes });
  }

  /** Lets go of a region; who has it keeps it. */
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
    if (held === undefined) throw new RangeError(`there is no region ${name}`);
    return held;
  }

  /** The region's descriptor for who writes it, or for who reads it. Throws RangeError. */
  region(name: string, { writable = false } = {}): Handing {
    const held = this.#find(name);
    const fd = writable ? held.writable : held.readOnly;
    return { name, fd, bytes: held.bytes, readOnly: !writable };
  }

  /** The eventfd of this name; made when it is first asked for. Throws Error. */
  eventfd(name: string): Handing {
    const fd = this.#eventfds.get(name) ?? this.#host.eventfd();
    this.#eventfds.set(name, fd);
    return { name: `eventfd ${name}`, fd, bytes: 0, readOnly: false };
  }

  /** Lets go of everything. Who has it keeps it. */
  close(): void {
    for (const name of [...this.#held.keys()]) this.drop(name);
    for (const fd of this.#eventfds.values()) this.#regions.close(fd);
    this.#eventfds.clear();
  }

  /** A region or eventfd by the name that it is handed under. Throws RangeError. */
  descriptor(name: string, readOnly: boolean): Handing {
    const [, tile] = /^eventfd (.*)$/.exec(name) ?? [];
    return tile === undefined ? this.region(name, { writable: !readOnly }) : this.eventfd(tile);
  }

  /** What a process is started with that is to find `handings` by their names. Throws SystemError. */
  order<Setup>(handings: readonly Handing[], setup: Setup): Order {
    const told: HandedSetup<Setup> = {
      descriptors: handings.map(({ name, bytes, readOnly }) => ({ name, bytes, readOnly })),
      setup,
    };
    const text = new TextEncoder().encode(JSON.stringify(told));
    const { writable, readOnly } = this.#regions.createShared("setup", text.length);
    u8(this.#regions.mapShared(writable, text.length)).set(text);
    this.#regions.close(writable);
    return {
      descriptors: [readOnly, ...handings.map(({ fd }) => fd)],
      bytes: text.length,
      close: () => void this.#regions.close(readOnly),
    };
  }
}
