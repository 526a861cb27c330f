// SPDX-License-Identifier: Apache-2.0
/**
 * What the master passes to its processes. At its start a process gets descriptors, in a known order,
 * and one memfd with JSON that describes each of them and the task; afterwards there are messages.
 * Master and child share only these names:
 *
 *     netbase, control, snapshot, solicit NET, routes NET, capture NET   of one appliance
 *     tile NAME, metrics NAME, link A to B, requests APP NET, peers APP NET, umem NET, frames NET
 *                                                                         continue with the next appliance
 *     eventfd NAME, udp PORT, xsk INTERFACE/QUEUE, filter INTERFACE       no memory of ours
 *
 * A region is passed as the descriptor that its reader or its writer may have (`../../ffi/region.ts`);
 * an appliance gets both for its own regions, since its tiles read each other's.
 */

import { type Channel, FIRST_DESCRIPTOR, MESSAGE_BYTES } from "../../ffi/process.ts";
import type { Region, Regions, View } from "../../ffi/region.ts";
import type { Outcome } from "./control.ts";
import { LONGEST_LINE } from "./log.ts";

/** One descriptor in the setup of a process. */
export interface HandedDescriptor {
  readonly name: string;
  /** Bytes of a region, else 0. */
  readonly bytes: number;
  readonly readOnly: boolean;
}

/** The setup of a process; `setup` depends on its kind. */
export interface HandedSetup<Setup> {
  /** In the order of their numbers, from `FIRST_HANDED` on. */
  readonly descriptors: readonly HandedDescriptor[];
  readonly setup: Setup;
}

/** The descriptor of the memfd with the JSON; its length is the process's last argument. */
export const SETUP_DESCRIPTOR = FIRST_DESCRIPTOR;
const FIRST_HANDED = FIRST_DESCRIPTOR + 1;
const READ_ONLY = "read-only ";

/** The child's side: finds descriptors by name. */
export class Handed<Setup> {
  readonly setup: Setup;
  readonly #regions: Pick<Regions, "mapShared" | "close">;
  /** Open descriptors by name. A region may have two, one of them read-only, with `READ_ONLY` before its name. */
  readonly #open = new Map<string, HandedDescriptor & { readonly fd: number }>();

  /** Reads the `byteLength` bytes of JSON at `SETUP_DESCRIPTOR`. Throws SystemError. */
  constructor(regions: Pick<Regions, "mapShared" | "close">, byteLength: number) {
    this.#regions = regions;
    const { buffer } = regions.mapShared(SETUP_DESCRIPTOR, byteLength, { readOnly: true });
    regions.close(SETUP_DESCRIPTOR);
    // TextDecoder does not accept shared memory.
    const text = new TextDecoder().decode(new Uint8Array(buffer, 0, byteLength).slice());
    const { descriptors, setup }: HandedSetup<Setup> = JSON.parse(text);
    this.setup = setup;
    descriptors.forEach((descriptor, i) => {
      const key = (descriptor.readOnly ? READ_ONLY : "") + descriptor.name;
      this.#open.set(key, { ...descriptor, fd: FIRST_HANDED + i });
    });
  }

  /** The descriptor called `name`, which is not a region's. Throws RangeError. */
  fd(name: string): number {
    const descriptor = this.#open.get(name);
    if (descriptor === undefined) throw new RangeError(`no descriptor ${name} was handed over`);
    return descriptor.fd;
  }

  /** Whether a descriptor called `name` was handed over and is not mapped yet. */
  has(name: string): boolean {
    return this.#open.has(name) || this.#open.has(READ_ONLY + name);
  }

  /** Maps the region called `name` with the given access, and closes the descriptor. Throws RangeError, SystemError. */
  view(name: string): View {
    const view = this.#map(name) ?? this.#map(READ_ONLY + name);
    if (view === undefined) throw new RangeError(`no region ${name} was handed over`);
    return view;
  }

  /** Maps the region called `name`, for which both descriptors were handed over. Throws likewise. */
  region(name: string): Region {
    const [reader, writer] = [this.#map(READ_ONLY + name), this.#map(name)];
    if (reader === undefined || writer === undefined) {
      throw new RangeError(`no region ${name} was handed over to be written`);
    }
    return { writer, reader };
  }

  #map(key: string): View | undefined {
    const descriptor = this.#open.get(key);
    if (descriptor === undefined) return undefined;
    this.#open.delete(key);
    const { fd, bytes, readOnly } = descriptor;
    const view = this.#regions.mapShared(fd, bytes, { readOnly });
    // An open descriptor could be mapped again.
    this.#regions.close(fd);
    return view;
  }
}

// Messages between the master and the appliance: JSON objects on the channel that exists from the
// process's start. The master checks all that it receives.

/** What an operator can request of the master. */
export type Request = (typeof REQUESTS)[number];
export const REQUESTS = ["reload", "upgrade", "drain", "undrain"] as const;

export type ApplianceReport =
  | { readonly type: "ready" }
  | { readonly type: "running" }
  /** Whether its net tiles have left after `leave`. */
  | { readonly type: "left"; readonly orderly: boolean }
  | { readonly type: "log"; readonly line: string; readonly level?: number }
  /** Its event loop runs; twice a second. */
  | { readonly type: "beat" }
  /** A request of an operator, with a number. */
  | { readonly type: "ask"; readonly what: Request; readonly number: number }
  /** It fails and ends. `status`: an exit status. `app`: the app that caused it. */
  | {
    readonly type: "failed";
    readonly message: string;
    readonly status: number;
    readonly app?: string;
    /** The predecessor's rings cannot be taken over, so the sockets must be created again. */
    readonly ringsLost?: boolean;
  };

export type ApplianceOrder =
  /** Serve: the predecessor has ended. */
  | { readonly type: "go" }
  | { readonly type: "leave" }
  | { readonly type: "changing"; readonly changing: boolean }
  | { readonly type: "stop" }
  /** Whether AF_XDP receives the frames of each attached interface. */
  | { readonly type: "attached"; readonly attached: readonly boolean[] }
  /** The outcome of the request with this number. */
  | { readonly type: "outcome"; readonly number: number; readonly outcome: Outcome };

export type Check = (value: unknown) => boolean;
/** The fields of messages by their type, without `type`. */
export type Shapes<Message extends { readonly type: string }> = {
  readonly [type in Message["type"]]: Readonly<Record<string, Check>>;
};

export const isWord: Check = (value) =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 0xffff_ffff;
export const isFlag: Check = (value) => typeof value === "boolean";
/** Text that is at most as long as a log line with the mark that it was clipped. */
export const isText: Check = (value) =>
  typeof value === "string" && value.length <= LONGEST_LINE + 1;

/** Accepts a missing field as well. */
export function optional(check: Check): Check {
  return (value) => value === undefined || check(value);
}

/**
 * Returns the message if it is a plain object of one of these shapes without other fields, else throws
 * Error. A schema library would take 11 MiB.
 */
export function checkedMessage<Message extends { readonly type: string }>(
  said: unknown,
  shapes: Shapes<Message>,
): Message {
  const isPlain = typeof said === "object" && said !== null && !Array.isArray(said);
  const own = (name: string) =>
    isPlain && Object.hasOwn(said, name) ? (said as Record<string, unknown>)[name] : undefined;
  const type = own("type");
  if (typeof type !== "string" || !Object.hasOwn(shapes, type)) {
    throw new Error("a message of unknown type");
  }
  const fields = shapes[type as Message["type"]];
  const isShaped = Object.entries(fields).every(([name, check]) => check(own(name))) &&
    Object.keys(said!).every((name) => name === "type" || Object.hasOwn(fields, name));
  if (!isShaped) throw new Error(`a malformed message of type ${type}`);
  return said as Message;
}

/** Sends and receives messages of these types. */
export type Messages<Sent, Received> = ReturnType<typeof messagesBy<Sent, Received>>;

/** Messages by `channel`. Received messages are as the other side made them and must be checked. */
export function messagesBy<Sent, Received>(channel: Channel) {
  const encoder = new TextEncoder();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  // An app's code may replace the global ones.
  const { parse, stringify } = JSON;
  return {
    send(message: Sent): boolean {
      const bytes = encoder.encode(stringify(message));
      return bytes.length <= MESSAGE_BYTES && channel.send(bytes);
    },
    /** The next message; null: none now; undefined: the end. Throws SyntaxError, TypeError or SystemError. */
    receive(): Received | null | undefined {
      const bytes = channel.receive();
      // `null` must not be read as "none now": it is a message of unknown type.
      return bytes ? parse(decoder.decode(bytes)) as Received ?? {} as Received : bytes;
    },
  };
}
