// SPDX-License-Identifier: Apache-2.0
/**
 * What `process_test.ts` has run as an appliance: main starts an observer and a worker for each kind
 * of tile, which opens its libraries, does its tile's work, confines itself and tries what it must not.
 * Main answers connections on listeners that it was handed. Arguments: the library of attacks, how many
 * UDP sockets it was handed, and how many bytes of region.
 */

/// <reference lib="deno.worker" />

import { createServer } from "node:net";
import { openHost } from "../../../ffi/host.ts";
import { CHANNEL_DESCRIPTOR, FIRST_DESCRIPTOR } from "../../../ffi/process.ts";
import { openRegions, u32 } from "../../../ffi/region.ts";
import { OBSERVED_CALLS } from "../../../ffi/shared.ts";
import { openNetlink, openUdp } from "../../../ffi/sockets.ts";
import { openObserver, openTile, type Role, SLOT_BYTES } from "../../../ffi/tile.ts";
import { openXsk } from "../../../ffi/xsk.ts";

/** In this order from `FIRST_DESCRIPTOR` on; UDP sockets follow. */
const [OWN, THEIRS, UNIX, TCP, XSK, UDP] = [0, 1, 2, 3, 4, 5].map((i) => FIRST_DESCRIPTOR + i);
const ROLES: Role[] = ["netlink", "net", "status"];
const [attacks, udpSockets, regionBytes] = Deno.args;

/** What a tile says of itself. */
export interface Said {
  readonly did: Record<string, unknown>;
  readonly confined: { readonly landlock: boolean; readonly observed: boolean };
  readonly thread: number;
  /** Of the calls that send a signal, before it is confined; and of all attacks afterwards. */
  readonly signals: Record<string, number>;
  readonly errors: Record<string, number>;
  /** What main adds to it: the thread's capabilities, and the calls that the observer has counted. */
  readonly capabilities: string;
  readonly refused: readonly string[];
}

const native = () =>
  Deno.dlopen(attacks, {
    attack: { parameters: ["i32"], result: "i32" },
    attack_name: { parameters: ["i32", "buffer"], result: "i32" },
    map_rings: { parameters: ["i32"], result: "i32" },
    write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  }).symbols;

function attackErrors(
  { attack, attack_name: nameOf }: ReturnType<typeof native>,
  wanted = /./,
): Record<string, number> {
  const errors: Record<string, number> = {};
  const room = new Uint8Array(64);
  for (let i = 0, length; (length = nameOf(i, room)) > 0; i++) {
    const name = new TextDecoder().decode(room.subarray(0, length));
    // On the channel, which is main's own.
    if (!wanted.test(name)) continue;
    if (!/^(sendmsg|sendto|recvmsg)$/.test(name)) errors[name] = attack(i);
  }
  return errors;
}

/** What a tile does before it is confined. */
const works: { readonly [role in Role]: (symbols: ReturnType<typeof native>) => Said["did"] } = {
  netlink() {
    const netlink = openNetlink();
    const socket = netlink.open({ groups: [1, 3, 5, 7], receiveBuffer: 1 << 20, strict: true });
    const prompt = openTile().bePrompt(true);
    return { socket, prompt, port: netlink.portId(socket) > 0 };
  },
  net({ map_rings }) {
    openXsk();
    const udp = openUdp();
    const fds = Int32Array.from({ length: Number(udpSockets) }, (_, i) => UDP + i);
    const watch = udp.watch(fds);
    const regions = openRegions();
    const own = u32(regions.mapShared(OWN, Number(regionBytes)));
    own[0] = u32(regions.mapShared(THEIRS, 4096, { readOnly: true }))[0] + 1;
    return { watch, rings: map_rings(XSK), ready: udp.ready(watch, new Uint32Array(8), 8) };
  },
  status: () => ({}),
};

function runTile(role: Role): void {
  const tile = openTile();
  const symbols = native();
  const did = works[role](symbols);
  const signals = attackErrors(symbols, /kill|sigqueue|pidfd_send_signal/);
  const slot = ROLES.indexOf(role);
  const [fds, thread] = [Int32Array.of(UDP), tile.thread()];
  const confined = tile.confine({
    ...{ name: role, slot, role, fds },
    keepNetAdmin: role === "netlink",
  });
  const said: Omit<Said, "capabilities" | "refused"> = {
    did,
    confined,
    thread,
    signals,
    errors: attackErrors(symbols),
  };
  self.postMessage(said);
}

async function runMain(): Promise<void> {
  const symbols = native();
  const say = (message: unknown) => {
    const bytes = new TextEncoder().encode(JSON.stringify(message));
    symbols.write(CHANNEL_DESCRIPTOR, bytes, BigInt(bytes.length));
  };
  const counters = new Uint32Array(new SharedArrayBuffer(ROLES.length * SLOT_BYTES));
  openObserver().start(counters);
  const [tile, host] = [openTile(), openHost()];
  const tiles: Record<string, Said> = {};
  for (const [slot, role] of ROLES.entries()) {
    const worker = new Worker(import.meta.url, { type: "module", name: role });
    const said = await new Promise<Said>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
    const status = host.readThread(said.thread, "status")!;
    const counted = counters.subarray(slot * OBSERVED_CALLS, (slot + 1) * OBSERVED_CALLS);
    tiles[role] = {
      ...said,
      capabilities: /CapEff:\s*(\w+)/.exec(status)![1],
      refused: [...counted.entries()].filter(([, count]) => count > 0)
        .map(([call]) => tile.callName(call)),
    };
  }
  const listeners = await Promise.all([UNIX, TCP].map((fd) => {
    const server = createServer((connection) => connection.pipe(connection));
    return new Promise((resolve) => server.listen({ fd }, () => resolve(true)));
  }));
  // Half a second after its start Deno makes a thread for signals, which panics when it is refused.
  await new Promise((resolve) => setTimeout(resolve, 700));
  const digest = await crypto.subtle.digest("SHA-256", new Uint8Array(3));
  say({
    tiles,
    listeners,
    digest: digest.byteLength,
    path: Deno.execPath(),
    main: attackErrors(symbols),
  });
}

if ("WorkerGlobalScope" in globalThis) runTile(self.name as Role);
else await runMain();
