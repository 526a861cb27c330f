/**
 * What passes between the master and its processes. At its start a process gets descriptors, in a known
 * order, and one memfd that says in JSON what each of them is and what to do; afterwards there are messages.
 * Master and child agree on nothing but names:
 *
 *     netbase, control, snapshot, solicit NET, routes NET, capture NET   of one appliance
 *     tile NAME, metrics NAME, link A to B, requests APP NET, peers APP NET, umem NET, frames NET
 *                                                                         go on with the next appliance
 *     eventfd NAME, udp PORT, xsk INTERFACE/QUEUE, filter INTERFACE       no memory of ours
 *
 * A region is handed as the descriptor that its reader or its writer may have (`../../ffi/region.ts`); an
 * appliance has both of its own, since its tiles are readers of each other.
 */

import { type Channel, FIRST_DESCRIPTOR, MESSAGE_BYTES } from "../../ffi/process.ts";
import type { Region, Regions, View } from "../../ffi/region.ts";
import type { Outcome } from "./control.ts";

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
  /** Those that are open, by name; of a region the writable one and the other. */
  readonly #open = new Map<string, HandedDescriptor & { readonly fd: number }>();
  readonly #readOnly = new Map<string, HandedDescriptor & { readonly fd: number }>();

  /** Reads the `byteLength` bytes of JSON at `SETUP_DESCRIPTOR`. Throws SystemError. */
  constructor(regions: Pick<Regions, "mapShared" | "close">, byteLength: number) {
    this.#regions = regions;
    const { buffer } = regions.mapShared(SETUP_DESCRIPTOR, byteLength, { readOnly: true });
    regions.close(SETUP_DESCRIPTOR);
    // What is shared cannot be decoded.
    const text = new TextDecoder().decode(new Uint8Array(buffer, 0, byteLength).slice());
    const { descriptors, setup }: HandedSetup<Setup> = JSON.parse(text);
    this.setup = setup;
    descriptors.forEach((descriptor, i) => {
      const map = descriptor.readOnly ? this.#readOnly : this.#open;
      map.set(descriptor.name, { ...descriptor, fd: FIRST_HANDED + i });
    });
  }

  /** The descriptor called `name`, which is no region. Throws RangeError where there is none. */
  fd(name: string): number {
    const descriptor = this.#open.get(name);
    if (descriptor === undefined) throw new RangeError(`no descriptor ${name} was handed over`);
    return descriptor.fd;
  }

  /** Whether a descriptor called `name` was handed over, and not mapped yet. */
  has(name: string): boolean {
    return this.#open.has(name) || this.#readOnly.has(name);
  }

  /** Maps the region called `name` as it was handed, and closes it. Throws RangeError, SystemError. */
  view(name: string): View {
    const view = this.#map(this.#open, name) ?? this.#map(this.#readOnly, name);
    if (view === undefined) throw new RangeError(`no region ${name} was handed over`);
    return view;
  }

  /** Maps the region called `name`, of which both descriptors were handed. Throws likewise. */
  region(name: string): Region {
    const reader = this.#map(this.#readOnly, name);
    const writer = this.#map(this.#open, name);
    if (reader === undefined || writer === undefined) {
      throw new RangeError(`no region ${name} was handed over to be written`);
    }
    return { writer, reader };
  }

  #map(
    descriptors: Map<string, HandedDescriptor & { readonly fd: number }>,
    name: string,
  ): View | undefined {
    const descriptor = descriptors.get(name);
    if (descriptor === undefined) return undefined;
    descriptors.delete(name);
    const { fd, bytes, readOnly } = descriptor;
    const view = this.#regions.mapShared(fd, bytes, { readOnly });
    // A descriptor that stayed open could be mapped again.
    this.#regions.close(fd);
    return view;
  }
}

// Messages between the master and the appliance: JSON objects on the channel that the process was started
// with. The master checks all that it receives.

/** What an operator can ask of the master. */
export type Request = (typeof REQUESTS)[number];
export const REQUESTS = ["reload", "upgrade", "drain", "undrain"] as const;

/** What an appliance says. */
export type ApplianceReport =
  /** Its tiles could run. */
  | { readonly type: "ready" }
  /** All of them do. */
  | { readonly type: "running" }
  /** Its net tiles have ended after `leave`: whether each has left to a successor what it held. */
  | { readonly type: "left"; readonly orderly: boolean }
  | { readonly type: "log"; readonly line: string; readonly level?: number }
  /** Its event loop runs; twice a second. */
  | { readonly type: "beat" }
  /** An operator asks for something, by a number of its own. */
  | { readonly type: "ask"; readonly what: Request; readonly number: number }
  /** It cannot start, or go on, and ends. `status` is an exit status; `app`: because of that app. */
  | {
    readonly type: "failed";
    readonly message: string;
    readonly status: number;
    readonly app?: string;
    /** The rings of its predecessor cannot be taken over: the sockets have to be opened anew. */
    readonly ringsLost?: boolean;
  };

/** What the master says. */
export type ApplianceOrder =
  /** Take over what has not been handed over: the predecessor has ended. */
  | { readonly type: "go" }
  | { readonly type: "leave" }
  | { readonly type: "stop" }
  /** Of each attached interface: whether AF_XDP takes its frames. */
  | { readonly type: "attached"; readonly attached: readonly boolean[] }
  /** What became of what was asked for with this number. */
  | { readonly type: "outcome"; readonly number: number; readonly outcome: Outcome };

/** Sends and receives messages of these types. */
export interface Messages<Sent, Received> {
  /** Whether it went. */
  send(message: Sent): boolean;
  /** The next message; null: none now; undefined: the other end is closed. Throws SyntaxError. */
  receive(): Received | null | undefined;
}

/** Messages by `channel`. What is received is as the other side made it: to be checked. */
export function messagesBy<Sent, Received>(channel: Channel): Messages<Sent, Received> {
  return {
    send(message) {
      const bytes = new TextEncoder().encode(JSON.stringify(message));
      return bytes.length <= MESSAGE_BYTES && channel.send(bytes);
    },
    receive() {
      const bytes = channel.receive();
      return bytes ? JSON.parse(new TextDecoder().decode(bytes)) as Received : bytes;
    },
  };
}
