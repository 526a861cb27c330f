/**
 * Captures: hands on what net tiles put into their capture rings to whoever asks for it over the
 * control socket. While nobody does, net tiles are told to put nothing there.
 */

import type { View } from "../../ffi/view.ts";
import { ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETHERNET_BYTES, IPPROTO_UDP } from "../net/frame.ts";
import { formatAddress } from "../netlink/addresses.ts";
import { type Captured, CaptureFlag, CaptureReader } from "../runtime/capture_ring.ts";
import { CaptureMode } from "../runtime/control.ts";
import { NET } from "../runtime/counters.ts";
import { delay } from "../runtime/delay.ts";
import { portsOf } from "../runtime/ports.ts";
import { type Entry, jsonLine } from "../netlink/entries.ts";

/** Pause between two looks at rings that were empty: 512 records in that time are 50,000 a second. */
const POLL_MILLIS = 10;
/** How often something is said, if only how many were lost: so that one who has left is noticed. */
const BEAT_MILLIS = 1000;
/** How long main may take to tell net tiles. */
const TOLD_MILLIS = 5000;
/** Records handed on at once. */
const MOST = 256;
/** Captures at a time: each may go on for days, and has every record made into JSON. */
const MOST_CAPTURES = 8;

const REASONS = Object.keys(NET.help);

/** A port, or those up to `last`, and the app that answers there. */
export interface Listening {
  readonly port: number;
  readonly last?: number;
  readonly app: string;
}

/** What captures are made from. */
export interface CapturingParts {
  /** One ring per net tile. */
  readonly rings: readonly View[];
  /** Has net tiles show what `CaptureMode` says. */
  setMode(mode: number): void;
  /** What they were told last. */
  mode(): number;
  /** Names of interfaces as of now. */
  interfaceNames(): (ifindex: number) => string;
  readonly listen: readonly Listening[];
}

/** All captures that are on. */
export class Capturing {
  readonly #parts: CapturingParts;
  readonly #open = new Set<{ readonly dropsOnly: boolean }>();

  /** None is on, whatever a predecessor left. */
  constructor(parts: CapturingParts) {
    this.#parts = parts;
    this.#settle();
  }

  /** Names of apps that a capture can be of. */
  get apps(): string[] {
    return [...new Set(this.#parts.listen.map(({ app }) => baseName(app)))];
  }

  /**
   * What passes from now on, of the ports of `app` alone if one is named, in lines of JSON, some at a
   * time, for as long as it is asked for.
   */
  async *stream(request: { dropsOnly: boolean; app?: string }): AsyncGenerator<string> {
    if (this.#open.size === MOST_CAPTURES) {
      throw new Error(`${MOST_CAPTURES} captures are on, and there can be no more`);
    }
    const { rings } = this.#parts;
    const readers = rings.map((ring) => new CaptureReader(ring));
    const ports = this.#portsOf(request.app);
    this.#open.add(request);
    try {
      this.#settle();
      await this.#told();
      yield jsonLine({ capturing: true });
      for (let said = performance.now();;) {
        const entries: Entry[] = this.#take(readers, request.dropsOnly).filter((frame) =>
          ports?.has(frame.direction === "out" ? frame.sourcePort! : frame.destinationPort!) ?? true
        );
        if (performance.now() - said > BEAT_MILLIS) {
          said = performance.now();
          entries.push({ lost: readers.reduce((sum, { lost }) => sum + lost, 0) });
        }
        if (entries.length > 0) yield entries.map(jsonLine).join("");
        else await delay(POLL_MILLIS);
      }
    } finally {
      this.#open.delete(request);
      this.#settle();
    }
  }

  #take(readers: readonly CaptureReader[], dropsOnly: boolean): CapturedFrame[] {
    const taken: Captured[] = [];
    for (const reader of readers) {
      for (let i = 0; i < MOST; i++) {
        const record = reader.next();
        if (record === null) break;
        if (!dropsOnly || record.reason !== 0) taken.push(record);
      }
    }
    if (taken.length === 0) return [];
    // Each ring is in order, but not one with another.
    taken.sort((a, b) => a.seconds - b.seconds || a.micros - b.micros);
    const nameOf = this.#parts.interfaceNames();
    return taken.map((record) => entryOf(record, nameOf));
  }

  #portsOf(app: string | undefined): ReadonlySet<number> | null {
    if (app === undefined) return null;
    const own = this.#parts.listen.filter((each) => baseName(each.app) === app);
    return new Set(portsOf(own.map(({ port, last = port }) => [port, last])));
  }

  #settle(): void {
    this.#parts.setMode(this.#wantedMode());
  }

  /** Settles when net tiles know what is wanted: from then on nothing passes unseen. */
  async #told(): Promise<void> {
    const deadline = performance.now() + TOLD_MILLIS;
    while (this.#parts.mode() !== this.#wantedMode()) {
      if (performance.now() > deadline) throw new Error("the capture could not be begun");
      await delay(1);
    }
  }

  #wantedMode(): number {
    const wanted = [...this.#open];
    if (wanted.length === 0) return CaptureMode.off;
    return wanted.every(({ dropsOnly }) => dropsOnly) ? CaptureMode.drops : CaptureMode.all;
  }
}

/** The name of an app whose instances have a number each. */
export function baseName(app: string): string {
  return app.replace(/\.\d+$/, "");
}

/** The addresses and ports that a captured frame says; null when it is no IPv4 UDP datagram, or cut off. */
export function parseUdp({ flags, bytes }: Pick<Captured, "flags" | "bytes">) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ip = (flags & CaptureFlag.bare) !== 0 ? 0 : packetAt(view);
  if (ip < 0 || view.byteLength < ip + 24) return null;
  const udp = ip + (view.getUint8(ip) & 0x0f) * 4;
  if (view.getUint8(ip) >>> 4 !== 4 || view.getUint8(ip + 9) !== IPPROTO_UDP) return null;
  if (udp < ip + 20 || view.byteLength < udp + 4) return null;
  return {
    source: formatAddress(view.getUint32(ip + 12)),
    sourcePort: view.getUint16(udp),
    destination: formatAddress(view.getUint32(ip + 16)),
    destinationPort: view.getUint16(udp + 2),
  };
}

/** Where the IPv4 header begins behind an Ethernet header and its tags; -1: nowhere. */
function packetAt(view: DataView): number {
  for (let at = ETHERNET_BYTES; at <= view.byteLength; at += 4) {
    const type = view.getUint16(at - 2);
    if (type === ETH_P_IP) return at;
    if (type !== ETH_P_8021Q && type !== ETH_P_8021AD) return -1;
  }
  return -1;
}

/** A frame as it is handed on. */
export type CapturedFrame = ReturnType<typeof entryOf>;

function entryOf(
  { flags, reason, ifindex, size, seconds, micros, bytes }: Captured,
  nameOf: (ifindex: number) => string,
) {
  return {
    time: `${seconds}.${String(micros).padStart(6, "0")}`,
    interface: ifindex === 0 ? null : nameOf(ifindex),
    direction: (flags & CaptureFlag.out) !== 0 ? "out" as const : "in" as const,
    dropped: reason === 0 ? null : REASONS[reason] ?? String(reason),
    link: (flags & CaptureFlag.bare) !== 0 ? "ipv4" as const : "ethernet" as const,
    ...parseUdp({ flags, bytes }),
    size,
    frame: bytes.toHex(),
  };
}
