/**
 * What a process of Tegula is handed at its start: descriptors, in a known order, and one memfd that says
 * in JSON what each of them is and what to do. Master and child agree on nothing but names:
 *
 *     netbase, control, snapshot, solicit NET, headers NET, capture NET   of one appliance
 *     tile NAME, metrics NAME, link A to B, requests APP NET, heard APP NET, umem NET, frames NET
 *                                                                         go on with the next appliance
 *     eventfd NAME, udp PORT, xsk INTERFACE/QUEUE, filter INTERFACE       no memory of ours
 *
 * A region is handed as the descriptor that its reader or its writer may have (`../../ffi/region.ts`).
 */

import type { Regions } from "../../ffi/region.ts";
import type { View } from "../../ffi/view.ts";
import { FIRST_DESCRIPTOR } from "../../ffi/process.ts";

/** One descriptor, as the child is told of it. */
export interface HandedDescriptor {
  readonly name: string;
  /** Bytes of a region; 0: it is none. */
  readonly bytes: number;
  readonly readOnly: boolean;
}

/** Everything that a process is told; `setup` depends on its kind. */
export interface HandedSetup<Setup> {
  /** In the order of their numbers, from `FIRST_HANDED` on. */
  readonly descriptors: readonly HandedDescriptor[];
  readonly setup: Setup;
}

/** The descriptor of the memfd with the JSON; its length is the process's last argument. */
export const SETUP_DESCRIPTOR = FIRST_DESCRIPTOR;
/** The first of the others. */
export const FIRST_HANDED = FIRST_DESCRIPTOR + 1;

/** The child's side: finds descriptors by name. */
export class Handed<Setup> {
  readonly setup: Setup;
  readonly #regions: Pick<Regions, "mapShared" | "close">;
  readonly #numbers = new Map<string, number>();
  readonly #descriptors: readonly HandedDescriptor[];

  /** Reads the `byteLength` bytes of JSON at `SETUP_DESCRIPTOR`. Throws SystemError. */
  constructor(regions: Pick<Regions, "mapShared" | "close">, byteLength: number) {
    this.#regions = regions;
    const { buffer } = regions.mapShared(SETUP_DESCRIPTOR, byteLength, { readOnly: true });
    regions.close(SETUP_DESCRIPTOR);
    // What is shared cannot be decoded.
    const text = new TextDecoder().decode(new Uint8Array(buffer, 0, byteLength).slice());
    const { descriptors, setup }: HandedSetup<Setup> = JSON.parse(text);
    this.setup = setup;
    this.#descriptors = descriptors;
    descriptors.forEach(({ name }, i) => this.#numbers.set(name, FIRST_HANDED + i));
  }

  /** The descriptor called `name`. Throws RangeError where there is none. */
  fd(name: string): number {
    const fd = this.#numbers.get(name);
    if (fd === undefined) throw new RangeError(`no descriptor ${name} was handed over`);
    return fd;
  }

  /** Whether there is one called `name`. */
  has(name: string): boolean {
    return this.#numbers.has(name);
  }

  /** Maps the region called `name`, once: its descriptor is closed. Throws RangeError, SystemError. */
  view(name: string): View {
    const fd = this.fd(name);
    const { bytes, readOnly } = this.#descriptors[fd - FIRST_HANDED];
    const view = this.#regions.mapShared(fd, bytes, { readOnly });
    this.#regions.close(fd);
    this.#numbers.delete(name);
    return view;
  }
}
