// SPDX-License-Identifier: Apache-2.0
/**
 * AF_XDP on the real kernel: the XDP program's choice frame by frame, sockets in both attach modes
 * on a UMEM inside a region, several interfaces and queues on one UMEM, and what is left of a process
 * that was killed.
 */

import { deepEqual, equal, notEqual, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { linesOf } from "../../../cli/command.ts";
import { EBUSY, EINVAL, ENODEV, EOPNOTSUPP } from "../../../ffi/library.ts";
import { openRegions, u64, u8, type View } from "../../../ffi/region.ts";
import {
  FILTER_BYTES,
  VISIBLE_HEADER_WORDS,
  XSK_CURSORS,
  XSK_STATISTICS,
  XskStatistic,
} from "../../../ffi/shared.ts";
import { openXsk, openXskSetup, type XdpProgram } from "../../../ffi/xsk.ts";
import { Filter } from "../../../tiles/netlink/xdp_filter.ts";
import { otherProgram } from "../other_program.ts";
import {
  carries,
  child,
  command,
  type End,
  frame,
  type FrameOptions,
  PacketSocket,
  Wire,
} from "../wire.ts";
import { createRegion } from "../../region.ts";

const FRAME_BYTES = 2048;
const FRAMES = 1024;
const RING = 256;
const ADDRESS = 0xc6120001;
const OPTIONS = { frameBytes: FRAME_BYTES, headroom: 0, ring: RING };

/** Since Linux 6.4 the rings of a bound socket can be mapped. */
const [major, minor] = Deno.osRelease().split(".").map(Number);
const REMAPS = major > 6 || major === 6 && minor >= 4;

const F_SETFD = 2;
const libc = Deno.dlopen("libc.so.6", {
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
}).symbols;

const regions = openRegions();
const setup = openXskSetup();
const xsk = openXsk();
/** One region serves all tests: the memory of a UMEM may be registered again. */
const memory: View = createRegion(regions, "umem", FRAMES * FRAME_BYTES).writer;

/** Loads the program for an interface and makes 198.18.0.1:7 ours there. */
function loadFor(end: End, queues = 1) {
  const program = setup.load(queues);
  const filter = new Filter(regions.mapShared(program.filter, FILTER_BYTES));
  filter.setMac(end.mac);
  filter.setPorts([7]);
  ok(filter.add(ADDRESS));
  const counts = u64(regions.mapShared(program.redirected, 8 * queues));
  return { program, filter, redirected: (queue: number) => Number(counts[queue]) };
}

/** A socket: the descriptor, its slot, and what it is bound to. */
interface Open {
  readonly fd: number;
  readonly slot: number;
  readonly queue: number;
}

/** A socket that is prepared and adopted. */
function prepare({ queue = 0, in: umem = memory }: { queue?: number; in?: View } = {}): Open {
  const fd = setup.prepare(umem, OPTIONS);
  ok(fd >= 0, `prepare: ${fd}`);
  const slot = xsk.adopt(fd, umem, RING);
  ok(slot >= 0, `adopt: ${slot}`);
  return { fd, slot, queue };
}

function bind(
  { fd, queue }: Open,
  { ifindex }: { ifindex: number },
  mode: "copy" | "zero-copy" = "copy",
): number {
  return setup.bind(fd, { ifindex, queue, mode });
}

/** A socket that is bound. */
function open(end: End, options?: Parameters<typeof prepare>[0]): Open {
  const socket = prepare(options);
  equal(bind(socket, end), 0);
  return socket;
}

function close(...sockets: Open[]): void {
  for (const { fd, slot } of sockets) {
    xsk.release(slot);
    setup.close(fd);
  }
}

/** Attaches and returns the link. */
function attach(program: XdpProgram, { ifindex }: End, mode: "native" | "generic" = "native") {
  const link = setup.attach(program, ifindex, mode);
  ok(link >= 0, `attach: ${link}`);
  return link;
}

/** Gives a socket frames `first` to `first + count`. */
function fill(slot: number, first: number, count: number): void {
  const frames = Uint32Array.from({ length: count }, (_, i) => (first + i) * FRAME_BYTES);
  equal(xsk.fill(slot, frames, count), count);
}

/** Waits until any of the sockets has something, and says whether one has. */
function readable(slots: readonly number[], timeoutMs = 20_000): boolean {
  const pollSet = Int32Array.from(slots.flatMap((slot) => [xsk.fd(slot), 1]));
  return xsk.wait(pollSet, slots.length, timeoutMs) > 0;
}

function statistic(slot: number, which: number): number {
  const values = new BigUint64Array(XSK_STATISTICS);
  equal(xsk.statistics(slot, values), 0);
  return Number(values[which]);
}

/** What a socket received: (offset, length) pairs. */
function receive(slot: number): { offset: number; length: number }[] {
  const words = new Uint32Array(2 + 2 * RING);
  const count = xsk.receive(slot, words, RING);
  return Array.from(
    { length: count },
    (_, i) => ({ offset: words[2 + 2 * i], length: words[3 + 2 * i] }),
  );
}

function bytes({ offset, length }: { offset: number; length: number }): Uint8Array {
  return u8(memory).subarray(offset, offset + length);
}

for (const mode of ["native", "generic"] as const) {
  Deno.test(`a datagram comes in and goes out by AF_XDP, program attached ${mode}`, () => {
    using wire = new Wire("basic");
    using far = wire.farSocket();
    const { program, redirected } = loadFor(wire.near);
    const socket = open(wire.near);
    const { slot } = socket;
    const link = attach(program, wire.near, mode);
    equal(setup.register(program, 0, socket.fd), 0);
    fill(slot, 0, RING);

    const before = BigInt(Date.now()) * 1_000_000n;
    far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload: "in" }));
    ok(readable([slot]), "nothing came");
    const words = new Uint32Array(4);
    equal(xsk.receive(slot, words, 1), 1);
    const time = BigInt(words[0]) | BigInt(words[1]) << 32n;
    ok(time >= before && time - before < 20_000_000_000n, "the time is not now");
    const got = { offset: words[2], length: words[3] };
    ok(carries("in")(bytes(got)));
    equal(redirected(0), 1);
    equal(statistic(slot, XskStatistic.received), 1);

    bytes(got).set(new TextEncoder().encode("ou"), got.length - 2);
    equal(xsk.transmit(slot, words.subarray(2), 1), 1);
    ok(far.receive(carries("ou")), "the answer did not arrive");
    const sent = new Uint32Array(1);
    equal(xsk.complete(slot, sent, 1, 0), 1);
    equal(sent[0], got.offset);

    close(socket);
    setup.unload(program);
    equal(setup.attached(wire.near.ifindex)?.name, "tegula");
    setup.detach(link);
    equal(setup.attached(wire.near.ifindex), null);
  });
}

Deno.test("a frame that was sent goes back onto the fill ring by where it was sent from", () => {
  using wire = new Wire("again");
  using far = wire.farSocket();
  const { program } = loadFor(wire.near);
  const socket = open(wire.near);
  const { slot } = socket;
  const link = attach(program, wire.near);
  equal(setup.register(program, 0, socket.fd), 0);
  // The only frame there is, and not the first.
  fill(slot, 1, 1);
  for (const payload of ["once", "twice"]) {
    far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload }));
    ok(readable([slot]), "nothing came");
    const [got] = receive(slot);
    ok(carries(payload)(bytes(got)));
    ok(got.offset > FRAME_BYTES && got.offset + got.length <= 2 * FRAME_BYTES);
    equal(xsk.transmit(slot, Uint32Array.of(got.offset, got.length), 1), 1);
    ok(far.receive(carries(payload)), "the answer did not arrive");
    equal(xsk.complete(slot, new Uint32Array(RING), RING, RING), 1 | (1 << 16));
  }
  close(socket);
  setup.unload(program);
  setup.detach(link);
});

Deno.test("a burst larger than one kick sends is sent whole", () => {
  using wire = new Wire("burst");
  using far = wire.farSocket();
  const socket = open(wire.near);
  const { slot } = socket;
  const count = 200; // more do not fit the receive buffer of a packet socket on every kernel
  const pairs = new Uint32Array(2 * count);
  for (let i = 0; i < count; i++) {
    const one = frame({ to: wire.far.mac, destination: ADDRESS, port: 9, payload: `burst ${i}.` });
    u8(memory).set(one, i * FRAME_BYTES);
    pairs.set([i * FRAME_BYTES, one.length], 2 * i);
  }
  equal(xsk.transmit(slot, pairs, count), count);
  for (let i = 0; i < count; i++) ok(far.receive(carries(`burst ${i}.`)), `frame ${i} is missing`);
  equal(xsk.complete(slot, new Uint32Array(RING), RING, 0), count);
  close(socket);
});

Deno.test("a full transmit ring takes what fits and goes on when it is asked again", () => {
  using wire = new Wire("full");
  const socket = open(wire.near);
  const { slot } = socket;
  const one = frame({ to: wire.far.mac, destination: ADDRESS, port: 9 });
  u8(memory).set(one, 0);
  const pairs = new Uint32Array(2 * 3 * RING).fill(0);
  for (let i = 0; i < 3 * RING; i++) pairs.set([0, one.length], 2 * i);
  // Nothing is taken off the completion ring: after that many the kernel stops sending.
  equal(xsk.transmit(slot, pairs, 3 * RING), RING);
  equal(xsk.transmit(slot, pairs, RING), RING);
  equal(xsk.transmit(slot, pairs, RING), 0);
  equal(xsk.complete(slot, new Uint32Array(RING), RING, 0), RING);
  equal(xsk.transmit(slot, pairs, 0), 0);
  equal(xsk.complete(slot, new Uint32Array(RING), RING, 0), RING);
  close(socket);
});

Deno.test("the program takes our datagrams and leaves everything else to the kernel", async (t) => {
  using wire = new Wire("choice");
  using far = wire.farSocket();
  using kernel = new PacketSocket(wire.near.ifindex);
  const { program, filter, redirected } = loadFor(wire.near);
  filter.setVlans([5, 6]);
  const socket = open(wire.near);
  const { slot } = socket;
  const link = attach(program, wire.near);
  equal(setup.register(program, 0, socket.fd), 0);
  fill(slot, 0, RING);
  let serial = 0;

  /** Sends one frame and tells who got it; a second frame, of the other kind, shows it is settled. */
  function whoGets(what: Partial<FrameOptions>): "tegula" | "kernel" {
    const payload = `frame ${serial++}.`;
    const plain = { to: wire.near.mac, destination: ADDRESS, port: 7, payload };
    far.send(frame({ ...plain, ...what }));
    if (kernel.receive(carries(payload), 50)) {
      equal(receive(slot).length, 0);
      return "kernel";
    }
    const [got] = receive(slot);
    ok(got, `${payload} came nowhere`);
    ok(carries(payload)(bytes(got)));
    return "tegula";
  }

  const ours: Record<string, Partial<FrameOptions>> = {
    "to our port": {},
    "in our VLAN": { tags: [[0x8100, 5]] },
    "in our VLAN, with a priority": { tags: [[0x8100, 0xe005]] },
    "in two VLANs of ours": { tags: [[0x88a8, 5], [0x8100, 6]] },
    "with the don't-fragment bit": { fragment: 0x4000 },
  };
  const others: Record<string, Partial<FrameOptions>> = {
    "to another port": { port: 8 },
    "to another address": { destination: ADDRESS + 1 },
    "to another MAC": { to: Uint8Array.of(2, 0, 0, 0, 0, 1) },
    "to the broadcast MAC": { to: new Uint8Array(6).fill(255) },
    "in another VLAN": { tags: [[0x8100, 7]] },
    "in another VLAN within ours": { tags: [[0x88a8, 5], [0x8100, 7]] },
    "in three VLANs": { tags: [[0x88a8, 5], [0x88a8, 5], [0x8100, 6]] },
    "a first fragment": { fragment: 0x2000 },
    "a last fragment": { fragment: 0x0010 },
    "with options": { headerWords: 6 },
    "with a short header": { headerWords: 4 },
    "not UDP": { protocol: 6 },
    "not IPv4": { etherType: 0x86dd },
  };
  for (const [name, what] of Object.entries(ours)) {
    await t.step(`ours: ${name}`, () => equal(whoGets(what), "tegula"));
  }
  for (const [name, what] of Object.entries(others)) {
    await t.step(`the kernel's: ${name}`, () => equal(whoGets(what), "kernel"));
  }
  await t.step("a change of the filter takes effect at once", () => {
    filter.remove(ADDRESS);
    equal(whoGets({}), "kernel");
    filter.add(ADDRESS);
    equal(whoGets({}), "tegula");
    filter.setPorts([]);
    equal(whoGets({}), "kernel");
    filter.setPorts([7]);
    filter.setMac(wire.far.mac);
    equal(whoGets({}), "kernel");
    filter.setMac(wire.near.mac);
    equal(whoGets({}), "tegula");
  });
  await t.step("without a socket everything is the kernel's", () => {
    notEqual(redirected(0), 0);
    close(socket);
    const payload = `frame ${serial++}.`;
    far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload }));
    ok(kernel.receive(carries(payload)), "the kernel did not get it");
  });
  setup.detach(link);
  setup.unload(program);
});

Deno.test("one UMEM serves several interfaces and queues", () => {
  using one = new Wire("one");
  using two = new Wire("two", { queues: 2 });
  const ends = [{ wire: one, queue: 0 }, { wire: two, queue: 0 }, { wire: two, queue: 1 }];
  const loaded = [loadFor(one.near), loadFor(two.near, 2)];
  const sockets = ends.map(({ wire, queue }) => open(wire.near, { queue }));
  const slots = sockets.map(({ slot }) => slot);
  equal(new Set(slots).size, 3);
  sockets.forEach(({ slot, queue, fd }, i) => {
    equal(setup.register(loaded[i === 0 ? 0 : 1].program, queue, fd), 0);
    fill(slot, i * 300, 200);
  });
  const links = [attach(loaded[0].program, one.near), attach(loaded[1].program, two.near)];

  for (const wire of [one, two]) {
    using far = wire.farSocket();
    const its = slots.filter((_, i) => ends[i].wire === wire);
    // The far end spreads flows over its queues by their hash.
    for (let sourcePort = 1024; sourcePort < 1024 + 64; sourcePort++) {
      const to = { to: wire.near.mac, destination: ADDRESS, port: 7 };
      far.send(frame({ ...to, sourcePort, payload: wire.near.name }));
    }
    for (const slot of its) {
      ok(readable([slot]), `nothing came to socket ${slot}`);
      const got = receive(slot);
      ok(got.every((one) => carries(wire.near.name)(bytes(one))));
      const first = slots.indexOf(slot) * 300 * FRAME_BYTES;
      ok(got.every(({ offset }) => offset >= first && offset < first + 200 * FRAME_BYTES));
      equal(xsk.transmit(slot, Uint32Array.of(got[0].offset, got[0].length), 1), 1);
      ok(far.receive(carries(wire.near.name)));
      const { queue } = ends[slots.indexOf(slot)];
      equal(loaded[wire === one ? 0 : 1].redirected(queue), got.length);
      equal(statistic(slot, XskStatistic.received), got.length);
    }
  }
  close(...sockets);
  for (const link of links) setup.detach(link);
  for (const { program } of loaded) setup.unload(program);
});

Deno.test("bind() says why it failed, and the socket and its mappings are good for another try", () => {
  using wire = new Wire("fails");
  using far = wire.farSocket();
  const socket = prepare();
  const { slot } = socket;
  // What another process has put there already.
  fill(slot, 0, RING);
  equal(bind(socket, wire.near, "zero-copy"), -EOPNOTSUPP);
  equal(bind({ ...socket, queue: 7 }, wire.near), -EINVAL);
  equal(bind(socket, { ifindex: wire.near.ifindex + 1000 }), -ENODEV);
  equal(bind(socket, wire.near), 0);
  const { program } = loadFor(wire.near);
  equal(setup.register(program, 0, socket.fd), 0);
  const link = attach(program, wire.near);
  far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload: "at last" }));
  ok(readable([slot]), "nothing came");
  ok(carries("at last")(bytes(receive(slot)[0])));
  close(socket);
  setup.detach(link);
  setup.unload(program);
});

Deno.test("bind() waits for a queue that was just let go, and gives up on one in use", () => {
  using wire = new Wire("busy");
  for (let i = 0; i < 5; i++) close(open(wire.near));
  const holder = open(wire.near);
  const other = prepare({ in: createRegion(regions, "another umem", FRAMES * FRAME_BYTES).writer });
  const started = performance.now();
  equal(bind(other, wire.near), -EBUSY);
  ok(performance.now() - started < 20_000);
  close(holder);
  equal(bind(other, wire.near), 0);
  close(other);
});

Deno.test("a slot of plain memory receives what is injected and gives back what is sent", () => {
  const slot = xsk.memorySlot(memory, { frameBytes: FRAME_BYTES, ring: 4 });
  ok(slot >= 0);
  equal(xsk.fd(slot), -1);
  const pairs = Uint32Array.of(256, 60, 300, 61, 256, 62, 256, 63, 256, 64);
  equal(xsk.inject(slot, pairs, 5), 0); // there is nothing to be filled
  equal(xsk.fill(slot, Uint32Array.of(5 * FRAME_BYTES + 7, FRAME_BYTES), 2), 2);
  equal(xsk.inject(slot, pairs, 5), 2);
  deepEqual([...pairs.subarray(0, 4)], [5 * FRAME_BYTES + 256, 60, FRAME_BYTES + 300, 61]);
  const got = receive(slot);
  deepEqual(got, [
    { offset: 5 * FRAME_BYTES + 256, length: 60 },
    { offset: FRAME_BYTES + 300, length: 61 },
  ]);
  const sent = new Uint32Array(RING);
  // Often enough for every cursor to go around.
  for (let turn = 0; turn < 8; turn++) {
    equal(xsk.transmit(slot, Uint32Array.of(got[0].offset, 60), 1), 1);
    equal(xsk.complete(slot, sent, RING, RING), 0);
    equal(xsk.inject(slot, Uint32Array.of(0, 60), 1), turn === 0 ? 0 : 1);
    equal(xsk.complete(slot, sent, RING, RING), 1 | (1 << 16));
    equal(sent[0], got[0].offset);
    equal(receive(slot).length, turn === 0 ? 0 : 1);
  }
  xsk.release(slot);
});

/** Offsets in the four rings of a slot: fill, receive, transmit, completion. */
function visible(slot: number): number[][] {
  const out = new Uint32Array(VISIBLE_HEADER_WORDS + 4 * RING);
  const total = xsk.visible(slot, out);
  ok(total >= 0);
  let at = VISIBLE_HEADER_WORDS;
  return Array.from(out.subarray(0, 4), (count) => [...out.subarray(at, at += count)]);
}

Deno.test("whoever resumes a slot goes on where the rings are, and sees each frame in them", {
  ignore: !REMAPS,
}, () => {
  using wire = new Wire("resumed");
  using far = wire.farSocket();
  const { program } = loadFor(wire.near);
  const first = open(wire.near);
  const { fd, slot } = first;
  equal(setup.register(program, 0, fd), 0);
  const link = attach(program, wire.near);
  const heir = xsk.adopt(fd, memory, RING);
  ok(heir >= 0 && heir !== slot);
  const at = (frame: number) => frame * FRAME_BYTES;
  const frameOf = (offset: number) => Math.floor(offset / FRAME_BYTES);

  equal(xsk.fill(slot, Uint32Array.of(at(3), at(1), at(2)), 3), 3);
  far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload: "one" }));
  ok(readable([slot]));
  const [got] = receive(slot);
  equal(xsk.transmit(slot, Uint32Array.of(got.offset, got.length), 1), 1);
  ok(far.receive(carries("one")));
  far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload: "two" }));
  ok(readable([slot]));

  xsk.resume(heir);
  const [filled, received, sending, sent] = visible(heir);
  deepEqual([filled, received.map(frameOf), sending, sent], [[at(2)], [1], [], [got.offset]]);
  const cursors = new Uint32Array(XSK_CURSORS);
  xsk.cursors(heir, cursors);
  deepEqual([...cursors], [3, 2, 2, 1, 1, 1, 1, 0]);
  ok(carries("two")(bytes(receive(heir)[0])));
  equal(xsk.complete(heir, new Uint32Array(1), 1, 1), 1 | (1 << 16));
  deepEqual(visible(heir)[0], [at(2), got.offset]);

  xsk.release(heir);
  close(first);
  setup.detach(link);
  setup.unload(program);
});

Deno.test("the rings of a bound socket are mapped again, or by an older kernel refused", () => {
  using wire = new Wire("bound");
  const socket = open(wire.near);
  const again = xsk.adopt(socket.fd, memory, RING);
  if (REMAPS) xsk.release(again);
  else equal(again, -EBUSY);
  close(socket);
});

Deno.test("cursors that make no sense are told, and not followed", () => {
  const socket = prepare();
  const heir = xsk.adopt(socket.fd, memory, RING);
  fill(socket.slot, 0, RING);
  fill(heir, 0, RING); // it has not resumed
  equal(xsk.visible(heir, new Uint32Array(VISIBLE_HEADER_WORDS + 4 * RING)), -EINVAL);
  xsk.release(heir);
  close(socket);
});

Deno.test("a queue stays taken while a process has the rings of its socket", () => {
  using wire = new Wire("held");
  const { fd, slot } = open(wire.near);
  setup.close(fd);
  const next = prepare();
  equal(bind(next, wire.near), -EBUSY);
  xsk.release(slot);
  equal(bind(next, wire.near), 0);
  close(next);
});

Deno.test("a socket in the map is served, and once it is closed the kernel has all frames", () => {
  using wire = new Wire("paused");
  using far = wire.farSocket();
  using kernel = new PacketSocket(wire.near.ifindex);
  const { program } = loadFor(wire.near);
  const link = attach(program, wire.near);
  const send = (payload: string) =>
    far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload }));
  for (const round of ["first", "second"]) {
    const socket = open(wire.near);
    fill(socket.slot, 0, RING);
    equal(setup.register(program, 0, socket.fd), 0);
    send(`${round} ours`);
    ok(readable([socket.slot]));
    equal(receive(socket.slot).length, 1);
    close(socket);
    send(`${round} kernel's`);
    ok(kernel.receive(carries(`${round} kernel's`)));
  }
  setup.detach(link);
  setup.unload(program);
});

/** A process that answers by socket `fd` with frames in region `umem`, once it is told to `go`. */
async function startHeir(fd: number, umem: number) {
  for (const each of [fd, umem]) equal(libc.fcntl(each, F_SETFD, 0), 0); // not closed on exec
  const script = fileURLToPath(new URL("./xsk_heir_child.ts", import.meta.url));
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-all",
      "--no-check",
      script,
      ...[fd, umem, FRAMES, FRAME_BYTES, RING].map(String),
    ],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const lines = linesOf(process.stdout);
  const line = async () => (await lines.next()).value ?? "";
  equal(await line(), "adopted");
  return {
    async go(): Promise<Record<string, number>> {
      const writer = process.stdin.getWriter();
      await writer.write(new Uint8Array(1));
      await writer.close();
      return JSON.parse(await line());
    },
    /** Waits until it sleeps: what it took back from the kernel it has given again then. */
    async settled(): Promise<void> {
      const state = () => /\) (.)/.exec(Deno.readTextFileSync(`/proc/${process.pid}/stat`))![1];
      while (state() !== "S") await new Promise((resolve) => setTimeout(resolve, 1));
    },
    async kill(): Promise<void> {
      try {
        process.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await process.status;
      while (!(await lines.next()).done);
    },
  };
}

Deno.test("a successor answers all that waited when a process was killed, 20 times", {
  ignore: !REMAPS,
}, async () => {
  using wire = new Wire("heirs");
  using far = wire.farSocket();
  const shared = regions.createShared("handed umem", FRAMES * FRAME_BYTES);
  const umem = regions.mapShared(shared.writable, FRAMES * FRAME_BYTES);
  const { program, redirected } = loadFor(wire.near);
  const fd = setup.prepare(umem, OPTIONS);
  equal(setup.bind(fd, { ifindex: wire.near.ifindex, queue: 0, mode: "copy" }), 0);
  const link = attach(program, wire.near);
  equal(setup.register(program, 0, fd), 0);
  const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
  const each = (count: number, what: (payload: string) => void, name: string) => {
    for (let i = 0; i < count; i++) what(`${name} ${i}.`);
  };
  const ask = (payload: string) =>
    far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload: `${payload}?` }));
  const answered = (payload: string) => ok(far.receive(carries(`${payload}!`)), payload);

  const heirs: Awaited<ReturnType<typeof startHeir>>[] = [];
  const start = async () => {
    const heir = await startHeir(fd, shared.writable);
    heirs.push(heir);
    return heir;
  };

  try {
    let serving = await start();
    const nothing = await serving.go();
    deepEqual([nothing.received, nothing.count, nothing.hidden], [0, 0, 0]);
    const before = descriptors();
    for (let round = 0; round < 20; round++) {
      const heir = await start();
      each(20, ask, `alive ${round}`);
      each(20, answered, `alive ${round}`);
      await serving.settled();
      await serving.kill();
      const waiting = redirected(0) + 100;
      each(100, ask, `waits ${round}`);
      while (redirected(0) < waiting) await new Promise((resolve) => setTimeout(resolve, 1));
      const found = await heir.go();
      each(100, answered, `waits ${round}`);
      // Every frame that the kernel was given is in a ring, and only once.
      const { frames, count, ...others } = found;
      deepEqual(others, { received: 100, hidden: 0, descriptors: nothing.descriptors });
      ok(frames === count && frames >= RING, `${count} times ${frames} frames`);
      serving = heir;
    }
    equal(descriptors(), before);
  } finally {
    for (const heir of heirs) await heir.kill();
  }
  setup.close(fd);
  setup.detach(link);
  setup.unload(program);
  for (const each of Object.values(shared)) regions.close(each);
});

Deno.test("another program on the interface is not disturbed, and told by id and name", () => {
  using wire = new Wire("other");
  command(`ip link set ${wire.near.name} xdpdrv obj ${otherProgram()} sec xdp`);
  const { program } = loadFor(wire.near);
  equal(setup.attach(program, wire.near.ifindex, "native"), -EBUSY);
  equal(setup.attach(program, wire.near.ifindex, "generic"), -EBUSY);
  const [shown] = JSON.parse(command(`ip -j -d link show ${wire.near.name}`));
  deepEqual(setup.attached(wire.near.ifindex), { id: shown.xdp.prog.id, name: "other_program" });

  command(`ip link set ${wire.near.name} xdpdrv off`);
  const link = attach(program, wire.near);
  equal(setup.attached(wire.near.ifindex)?.name, "tegula");
  setup.detach(link);
  setup.unload(program);
});

Deno.test("a process that is killed leaves nothing, and its successor starts at once", async () => {
  using wire = new Wire("killed");
  using far = wire.farSocket();
  using kernel = new PacketSocket(wire.near.ifindex);
  const args = [String(wire.near.ifindex), wire.near.mac.toHex()];
  const ask = (payload: string) =>
    far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload }));

  for (const round of ["first", "second"]) {
    const { process, line } = await child("./ffi/xsk_child.ts", ...args);
    equal(line, "serving");
    ask(`${round}, alive`);
    equal(kernel.receive(carries(`${round}, alive`), 100), null);
    process.kill("SIGKILL");
    await process.status;
    ask(`${round}, killed`);
    ok(kernel.receive(carries(`${round}, killed`)), "the kernel did not get the traffic");
  }
  const { program } = loadFor(wire.near);
  setup.detach(attach(program, wire.near));
  setup.unload(program);
});
