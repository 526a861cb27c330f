// SPDX-License-Identifier: Apache-2.0
/**
 * Packet captures: passes the contents of the net tiles' capture rings to clients of the control
 * socket. Without a capture, net tiles write nothing there.
 */

import type { View } from "../../ffi/region.ts";
import { formatAddress } from "../../netbase/route.ts";
import { type Captured, CaptureFlag, CaptureReader } from "../net/capture.ts";
import { ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETHERNET_BYTES, IPPROTO_UDP } from "../net/rings.ts";
import { type Entry, jsonLine } from "../netlink/entries.ts";
import { CaptureMode } from "../runtime/control.ts";
import { NET } from "../runtime/counters.ts";
import { portsOf } from "../runtime/plan.ts";
import { delay } from "../runtime/tile.ts";

/** Pause between two polls of empty rings. A ring has 512 records, so this allows 50,000 a second. */
const POLL_MILLIS = 10;
/** How often the number of lost records is written. A write fails if the client has disconnected. */
const BEAT_MILLIS = 1000;
/** How long the appliance may take to set the capture mode. */
const MODE_MILLIS = 5000;
/** Records read from one ring at a time. */
const BATCH = 256;
/** Concurrent captures. Each formats every record for itself. */
const MOST_CAPTURES = 8;

const REASONS = Object.keys(NET.help);

/** A port, or the ports up to `last`, and the app that serves them. */
export interface Listening {
  readonly port: number;
  readonly last?: number;
  readonly app: string;
}

/** The name of an app without the number of the instance. */
export function baseName(app: string): string {
  return app.replace(/\.\d+$/, "");
}

/** The ports of an app, each once. */
export function portsOfApp(listen: readonly Listening[], app: string): number[] {
  const own = listen.filter((each) => baseName(each.app) === app);
  return [...new Set(portsOf(own.map(({ port, last = port }) => [port, last])))];
}

export function appNames(listen: readonly Listening[]): string[] {
  return [...new Set(listen.map(({ app }) => baseName(app)))];
}

export interface CaptureFilter {
  readonly dropsOnly: boolean;
  readonly app?: string;
}

/** Passes the records in the net tiles' rings to captures. Captures that a predecessor left open end. */
export function captureStreams(
  rings: readonly View[],
  listen: readonly Listening[],
  mode: { get(): number; set(mode: number): void },
) {
  const open = new Set<CaptureFilter>();
  const wantedMode = () => {
    if (open.size === 0) return CaptureMode.off;
    return [...open].every(({ dropsOnly }) => dropsOnly) ? CaptureMode.drops : CaptureMode.all;
  };
  mode.set(wantedMode());

  /** Yields frames from now on as lines of JSON. Throws Error: too many captures, or net tiles do not start. */
  return async function* (
    filter: CaptureFilter,
    interfaceNames: () => (ifindex: number) => string,
  ): AsyncGenerator<string> {
    if (open.size === MOST_CAPTURES) {
      throw new Error(`${MOST_CAPTURES} captures are running; no more are allowed`);
    }
    const readers = rings.map((ring) => new CaptureReader(ring));
    const ports = filter.app === undefined ? null : new Set(portsOfApp(listen, filter.app));
    open.add(filter);
    try {
      mode.set(wantedMode());
      // No later frame is missed once net tiles have the mode.
      const deadline = performance.now() + MODE_MILLIS;
      while (mode.get() !== wantedMode()) {
        if (performance.now() > deadline) throw new Error("the capture did not start in time");
        await delay(1);
      }
      yield jsonLine({ capturing: true });
      for (let lastBeat = performance.now();;) {
        const records = readers.flatMap((reader) => take(reader, filter));
        // Each ring is in order, several together are not.
        records.sort((a, b) => a.seconds - b.seconds || a.micros - b.micros);
        const nameOf = records.length === 0 ? String : interfaceNames();
        const entries: Entry[] = records.map((record) => entryOf(record, nameOf)).filter((frame) =>
          ports?.has(frame.direction === "out" ? frame.sourcePort! : frame.destinationPort!) ?? true
        );
        if (performance.now() - lastBeat > BEAT_MILLIS) {
          lastBeat = performance.now();
          entries.push({ lost: readers.reduce((sum, { lost }) => sum + lost, 0) });
        }
        if (entries.length > 0) yield entries.map(jsonLine).join("");
        else await delay(POLL_MILLIS);
      }
    } finally {
      open.delete(filter);
      mode.set(wantedMode());
    }
  };
}

function take(reader: CaptureReader, { dropsOnly }: CaptureFilter): Captured[] {
  const taken: Captured[] = [];
  for (let i = 0; i < BATCH; i++) {
    const record = reader.next();
    if (record === null) break;
    if (!dropsOnly || record.reason !== 0) taken.push(record);
  }
  return taken;
}

/** The addresses and ports of a captured frame; null if it is not IPv4 UDP, or is truncated. */
export function parseUdp({ flags, bytes }: Pick<Captured, "flags" | "bytes">) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ip = (flags & CaptureFlag.bare) !== 0 ? 0 : ipHeaderAt(view);
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

/** Offset of the IPv4 header after an Ethernet header and its VLAN tags; -1: there is none. */
function ipHeaderAt(view: DataView): number {
  for (let at = ETHERNET_BYTES; at <= view.byteLength; at += 4) {
    const type = view.getUint16(at - 2);
    if (type === ETH_P_IP) return at;
    if (type !== ETH_P_8021Q && type !== ETH_P_8021AD) return -1;
  }
  return -1;
}

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
