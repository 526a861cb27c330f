// SPDX-License-Identifier: Apache-2.0
/**
 * Shared by the tests of the native libraries: a veth pair whose far end is in its own namespace,
 * packet sockets (AF_PACKET) on either end, and frames to send. Everything runs in the test's own
 * process, so that a test lists sent and expected frames line by line.
 */

import { fileURLToPath } from "node:url";
import { linesOf } from "../../cli/command.ts";

const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 0x0003;
const MSG_DONTWAIT = 0x40;
const CLONE_NEWNET = 0x40000000;
const POLLIN = 1;

const libc = Deno.dlopen("libc.so.6", {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  setns: { parameters: ["i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
}).symbols;

function must(result: number | bigint, what: string): number {
  if (Number(result) < 0) throw new Error(`${what} failed`);
  return Number(result);
}

/** Runs a command to its end and returns its output; throws with its errors if it fails. */
export function command(line: string): string {
  const [program, ...args] = line.split(" ");
  const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
  if (!success) throw new Error(`${line}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** Runs `work` with this thread in the namespace `name`. */
export function inNamespace<T>(name: string, work: () => T): T {
  const path = (text: string) => new TextEncoder().encode(text + "\0");
  const here = must(libc.open(path("/proc/thread-self/ns/net"), 0), "open of our namespace");
  const there = must(libc.open(path(`/run/netns/${name}`), 0), `open of namespace ${name}`);
  must(libc.setns(there, CLONE_NEWNET), "setns");
  try {
    return work();
  } finally {
    must(libc.setns(here, CLONE_NEWNET), "setns back");
    libc.close(here);
    libc.close(there);
  }
}

/** A packet socket: sends frames unchanged, and sees those that the kernel receives. */
export class PacketSocket {
  readonly #fd: number;
  readonly #buffer = new Uint8Array(65536);

  constructor(ifindex: number) {
    this.#fd = must(libc.socket(AF_PACKET, SOCK_RAW, 0), "socket");
    const address = new DataView(new ArrayBuffer(20));
    address.setUint16(0, AF_PACKET, true);
    address.setUint16(2, ETH_P_ALL);
    address.setInt32(4, ifindex, true);
    must(libc.bind(this.#fd, new Uint8Array(address.buffer), 20), "bind");
  }

  send(frame: Uint8Array<ArrayBuffer>): void {
    must(libc.send(this.#fd, frame, BigInt(frame.length), 0), "send");
  }

  /** The next frame for which `wanted` returns true, within `timeoutMs`; null: none. */
  receive(wanted: (frame: Uint8Array) => boolean, timeoutMs = 20_000): Uint8Array | null {
    const deadline = performance.now() + timeoutMs;
    const entry = new Int32Array([this.#fd, POLLIN]);
    for (;;) {
      const left = Math.max(0, Math.ceil(deadline - performance.now()));
      if (libc.poll(entry, 1n, left) <= 0) return null;
      const size = Number(libc.recv(this.#fd, this.#buffer, 65536n, MSG_DONTWAIT));
      if (size > 0 && wanted(this.#buffer.subarray(0, size))) return this.#buffer.slice(0, size);
    }
  }

  [Symbol.dispose](): void {
    libc.close(this.#fd);
  }
}

/** One end of a pair. */
export interface End {
  readonly name: string;
  readonly ifindex: number;
  readonly mac: Uint8Array;
}

/** A veth pair: `near` in the test's namespace, `far` in the namespace `peer-NAME`. */
export class Wire {
  readonly near: End;
  readonly far: End;
  readonly namespace: string;

  /** Makes it and brings it up. Without IPv6, so that only the test's frames are on the wire. */
  constructor(name: string, { queues = 1 } = {}) {
    this.namespace = `peer-${name}`;
    const many = `numrxqueues ${queues} numtxqueues ${queues}`;
    command(`ip netns add ${this.namespace}`);
    command(
      `ip link add ${name} ${many} type veth peer name far ${many} netns ${this.namespace}`,
    );
    command(`ip link set ${name} up addrgenmode none`);
    command(`ip -n ${this.namespace} link set far up addrgenmode none`);
    this.near = end(`ip -j link show ${name}`);
    this.far = end(`ip -n ${this.namespace} -j link show far`);
  }

  /** A packet socket on the far end. */
  farSocket(): PacketSocket {
    return inNamespace(this.namespace, () => new PacketSocket(this.far.ifindex));
  }

  [Symbol.dispose](): void {
    command(`ip link del ${this.near.name}`);
    command(`ip netns del ${this.namespace}`);
  }
}

function end(show: string): End {
  const [link] = JSON.parse(command(show));
  const mac = Uint8Array.from(link.address.split(":"), (byte) => parseInt(byte as string, 16));
  return { name: link.ifname, ifindex: link.ifindex, mac };
}

/** The properties of a frame that differ from an ordinary small UDP datagram. */
export interface FrameOptions {
  readonly to: Uint8Array;
  readonly destination: number;
  readonly port: number;
  readonly sourcePort?: number;
  readonly payload?: string;
  /** VLAN tags, outermost first: [TPID, id]. */
  readonly tags?: readonly (readonly [number, number])[];
  readonly protocol?: number;
  /** The IPv4 flags and fragment offset field. */
  readonly fragment?: number;
  /** 32-bit words of IPv4 header, more than 5 for options. */
  readonly headerWords?: number;
  readonly etherType?: number;
}

/** An Ethernet frame with a UDP datagram from 198.18.0.99, without checksums. */
export function frame(options: FrameOptions): Uint8Array<ArrayBuffer> {
  const { to, destination, port, payload = "x", tags = [], headerWords = 5 } = options;
  const ip = 14 + tags.length * 4;
  const udp = ip + headerWords * 4;
  const text = new TextEncoder().encode(payload);
  const bytes = new Uint8Array(udp + 8 + text.length);
  const view = new DataView(bytes.buffer);
  bytes.set(to, 0);
  bytes.set([2, 0, 0, 0, 0, 99], 6);
  tags.forEach(([type, id], i) => {
    view.setUint16(12 + i * 4, type);
    view.setUint16(14 + i * 4, id);
  });
  view.setUint16(ip - 2, options.etherType ?? 0x0800);
  view.setUint8(ip, 0x40 | headerWords);
  view.setUint16(ip + 2, bytes.length - ip);
  view.setUint16(ip + 6, options.fragment ?? 0);
  view.setUint8(ip + 8, 64);
  view.setUint8(ip + 9, options.protocol ?? 17);
  view.setUint32(ip + 12, 0xc6120063);
  view.setUint32(ip + 16, destination);
  view.setUint16(udp, options.sourcePort ?? 4000);
  view.setUint16(udp + 2, port);
  view.setUint16(udp + 4, 8 + text.length);
  bytes.set(text, udp + 8);
  return bytes;
}

/** Whether `frame` ends with `payload`. */
export function carries(payload: string): (frame: Uint8Array) => boolean {
  const wanted = new TextEncoder().encode(payload);
  return (frame) => {
    const at = frame.length - wanted.length;
    return at >= 0 && wanted.every((byte, i) => frame[at + i] === byte);
  };
}

/** Starts a script of this folder in its own process and waits for its first line. */
export async function child(
  script: string,
  ...args: string[]
): Promise<{ process: Deno.ChildProcess; line: string }> {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", "--unstable-worker-options", path, ...args],
    stdout: "piped",
  }).spawn();
  const { value } = await linesOf(process.stdout).next();
  return { process, line: value ?? "" };
}
