/**
 * What main alone asks of the host: eventfds for the tiles, its capabilities and limits, what a
 * driver says of itself, and the word to systemd.
 *
 * @module
 */

import { checked } from "./errno.ts";

/** Capability numbers of capability.h. */
export const CAP_NET_BIND_SERVICE = 10;
export const CAP_NET_ADMIN = 12;
export const CAP_NET_RAW = 13;
export const CAP_IPC_LOCK = 14;
export const CAP_SYS_ADMIN = 21;
export const CAP_SYS_RESOURCE = 24;
export const CAP_BPF = 39;

/** Kinds of link of linux/if_arp.h. */
const ARPHRD_ETHER = 1;
const ARPHRD_LOOPBACK = 772;

const IFNAMSIZ = 16;
const DRIVER_BYTES = 32;

/** Main's own calls. Interfaces are those of the calling thread's network namespace. */
export interface Host {
  /** A new eventfd, non-blocking, closed on exec. Throws SystemError. */
  eventfd(): number;
  /** Closes a descriptor. */
  close(fd: number): void;
  /** Effective capabilities of this thread as a bit set in a double; ask `hasCapability`. */
  capabilities(): number;
  /** Whether the thread with this number (`TileLibrary.thread`) still runs. */
  isRunning(thread: number): boolean;
  /** Lifts the limit on locked memory, which UMEMs count against. 0, or -errno (EPERM). */
  raiseMemlock(): number;
  /** Index of the interface `ifname`, 0 when there is none. */
  ifindex(ifname: string): number;
  /** Receive queues of `ifname` (ETHTOOL_GCHANNELS: rx + combined); 0 when the driver does not say. */
  channels(ifname: string): number;
  /** The driver of `ifname` (ETHTOOL_GDRVINFO), "" when it does not say. */
  driver(ifname: string): string;
  /** Whether frames on `ifname` have Ethernet headers: loopback's have, a tun device's have not. */
  hasEthernetHeaders(ifname: string): boolean;
  /** Becomes another program, path and arguments in `argv`; returns only with -errno. */
  exec(argv: readonly string[]): number;
  /** sd_notify(3): tells systemd, e.g. "READY=1". Does nothing without $NOTIFY_SOCKET. */
  notify(message: string): void;
}

/** Whether a set from {@linkcode Host.capabilities} has `capability` in it. */
export function hasCapability(set: number, capability: number): boolean {
  return Math.floor(set / 2 ** capability) % 2 === 1;
}

/** `text` as C has it. */
function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text + "\0");
}

/** Opens the library at `path`. */
export function openHost(path: string): Host {
  const { symbols } = Deno.dlopen(path, {
    tegula_host_eventfd: { parameters: [], result: "i32" },
    tegula_host_close: { parameters: ["i32"], result: "i32" },
    tegula_host_thread: { parameters: ["i32"], result: "i32" },
    tegula_host_raise_memlock: { parameters: [], result: "i32" },
    tegula_host_ifindex: { parameters: ["buffer"], result: "u32" },
    tegula_host_channels: { parameters: ["buffer"], result: "i32" },
    tegula_host_driver: { parameters: ["buffer", "buffer"], result: "i32" },
    tegula_host_hardware: { parameters: ["buffer"], result: "i32" },
    tegula_host_exec: { parameters: ["buffer", "u32"], result: "i32" },
    tegula_host_notify: { parameters: ["buffer"], result: "i32" },
  });
  return {
    eventfd: () => checked(symbols.tegula_host_eventfd(), "make an eventfd"),
    close(fd) {
      symbols.tegula_host_close(fd);
    },
    capabilities() {
      const status = Deno.readTextFileSync("/proc/thread-self/status");
      return parseInt(status.match(/^CapEff:\s*(\w+)$/m)![1], 16);
    },
    isRunning: (thread) => symbols.tegula_host_thread(thread) === 0,
    raiseMemlock: symbols.tegula_host_raise_memlock,
    ifindex: (ifname) => symbols.tegula_host_ifindex(cString(ifname)),
    channels(ifname) {
      if (ifname.length >= IFNAMSIZ) return 0;
      return Math.max(0, symbols.tegula_host_channels(cString(ifname)));
    },
    driver(ifname) {
      const out = new Uint8Array(DRIVER_BYTES);
      if (ifname.length >= IFNAMSIZ) return "";
      const length = symbols.tegula_host_driver(cString(ifname), out);
      return new TextDecoder().decode(out.subarray(0, Math.max(0, length)));
    },
    hasEthernetHeaders(ifname) {
      if (ifname.length >= IFNAMSIZ) return false;
      const hardware = symbols.tegula_host_hardware(cString(ifname));
      return hardware === ARPHRD_ETHER || hardware === ARPHRD_LOOPBACK;
    },
    exec: (argv) => symbols.tegula_host_exec(cString(argv.join("\0")), argv.length),
    notify(message) {
      symbols.tegula_host_notify(cString(message));
    },
  };
}
