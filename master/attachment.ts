// SPDX-License-Identifier: Apache-2.0
/**
 * The AF_XDP part of an interface, as the master sets it up: the XDP program with its maps, and one socket for each queue.
 * The program is attached before the sockets are in its map, and passes everything to the kernel until they are.
 *
 *     const attachment = new Attachment(setup, { name, ifindex, queues, map }); // loads the program
 *     attachment.prepare(shares); // creates sockets, not bound: to be handed over (`descriptors`) and mapped
 *     attachment.open("copy");    // attaches the program and binds the sockets
 *     attachment.serve();         // from now on frames come by AF_XDP
 *     attachment.detach();        // from now on the kernel has them
 *
 * Further sockets can be prepared while others serve, and replace them by `open`. An interface that was deleted and
 * recreated has another index: `unload` the attachment and make another.
 *
 * The program is attached alone, by a link that ends with this process, or as one of the programs that libxdp's dispatcher
 * runs. The latter stays attached if Tegula is killed. Such a leftover is recognised by its queues, which have no sockets.
 * So with a dispatcher the sockets are bound first, and closed last.
 */

import { describeErrno, EBUSY, EEXIST, EINVAL, ENOBUFS, SystemError } from "../ffi/library.ts";
import { u64, type View } from "../ffi/region.ts";
import { FILTER_BYTES, XSK_STATISTICS, XskStatistic } from "../ffi/shared.ts";
import type { XdpProgram, XskSetup } from "../ffi/xsk.ts";
import { seedFilter } from "../tiles/netlink/xdp_filter.ts";
import * as plan from "../tiles/runtime/plan.ts";
import { socketName } from "../tiles/runtime/wiring.ts";

/** How sockets are bound: frames in place, or copied. It is the same for all sockets of a UMEM. */
export type Binding = "zero-copy" | "copy";

interface QueueSocket {
  readonly fd: number;
  readonly queue: number;
  readonly netTile: number;
}

interface Share {
  readonly queue: number;
  readonly netTile: number;
  readonly umem: View;
}

export interface Opened {
  readonly attach: "native" | "generic";
  /** Why it is not native; empty if it is. */
  readonly reason: string;
}

/**
 * An open attachment, for the program that this process executes in its place. All numbers in it but indices are
 * descriptors that stay open.
 */
export interface AttachmentState {
  readonly program: XdpProgram;
  /** The bpf_link; null if libxdp's dispatcher runs the program. */
  readonly link: number | null;
  readonly how: Opened;
  readonly binding: Binding;
  readonly sockets: readonly QueueSocket[];
}

/** The name of libxdp's dispatcher in the kernel. */
export const DISPATCHER = "xdp_dispatcher";

export class OccupiedError extends Error {
  readonly interface: string;
  readonly program: { readonly id: number; readonly name: string };

  constructor(name: string, program: { readonly id: number; readonly name: string }) {
    super(`XDP program ${program.name} (id ${program.id}) is attached to ${name}`);
    this.interface = name;
    this.program = program;
  }
}

const SOCKET_OPTIONS = {
  frameBytes: plan.FRAME_BYTES,
  headroom: plan.HEADROOM_BYTES,
  ring: plan.RING_ENTRIES,
};

export class Attachment {
  readonly name: string;
  readonly ifindex: number;
  /** Those that are bound. */
  sockets: readonly QueueSocket[] = [];
  /** The program's filter map, to be written by the netlink tile. */
  readonly filter: View;
  /** Why native mode is not tried; empty if it is. */
  readonly #notNative: string;
  /** Whether libxdp's dispatcher is to run the program. */
  readonly #dispatcher: boolean;
  readonly #setup: XskSetup;
  readonly #program: XdpProgram;
  /** Frames handed to the socket of each queue, counted by the program. */
  readonly #redirected: BigUint64Array;
  #shares: readonly Share[] = [];
  /** Prepared sockets, of which not all are bound. */
  #prepared: QueueSocket[] = [];
  #bound = 0;
  #binding: Binding = "copy";
  /** How the program is attached, and its link, or null if a dispatcher runs it. */
  #on: { readonly how: Opened; readonly link: number | null } | null = null;

  /**
   * Loads the program for `queues` queues, and attaches nothing. `before`: the `state` before this process executed
   * another program, which stays open.
   */
  constructor(
    setup: XskSetup,
    { name, ifindex, queues, map, notNative = "", dispatcher = false, replaces, before }: {
      name: string;
      ifindex: number;
      queues: number;
      map: (fd: number, byteLength: number) => View;
      notNative?: string;
      dispatcher?: boolean;
      /** An attachment whose program this one replaces. */
      replaces?: Attachment;
      before?: { readonly state: AttachmentState; readonly shares: readonly Share[] };
    },
  ) {
    this.#notNative = notNative;
    this.#dispatcher = dispatcher;
    this.#setup = setup;
    this.name = name;
    this.ifindex = ifindex;
    if (before === undefined) {
      const occupant = setup.attached(ifindex);
      const isOurs = replaces?.attached && replaces.ifindex === ifindex;
      if (occupant !== null && !isOurs && !(dispatcher && occupant.name === DISPATCHER)) {
        throw new OccupiedError(this.name, occupant);
      }
    }
    this.#program = before?.state.program ?? setup.load(queues);
    this.filter = map(this.#program.filter, FILTER_BYTES);
    if (before === undefined) seedFilter(this.filter);
    this.#redirected = u64(map(this.#program.redirected, 8 * queues));
    if (before === undefined) return;
    const { link, how, binding, sockets } = before.state;
    [this.#shares, this.sockets, this.#binding] = [before.shares, sockets, binding];
    this.#on = { how, link };
    for (const { fd, netTile } of sockets) {
      const { umem } = before.shares.find((share) => share.netTile === netTile)!;
      setup.inherit(fd, umem, SOCKET_OPTIONS, binding);
    }
  }

  /** The state for the program that this process executes in its place; null if it is not open. */
  get state(): AttachmentState | null {
    if (this.#on === null) return null;
    const program = this.#program;
    return { program, ...this.#on, binding: this.#binding, sockets: this.sockets };
  }

  /**
   * Creates a socket for each share, on the UMEM of its net tile, in place of prepared ones that are not bound. Throws
   * SystemError; then nothing is prepared.
   */
  prepare(shares: readonly Share[]): void {
    this.#discard();
    this.#shares = shares;
    for (const { queue, netTile, umem } of shares) {
      const fd = this.#setup.prepare(umem, SOCKET_OPTIONS);
      if (fd < 0) {
        this.#discard();
        throw new SystemError("open an AF_XDP socket", fd);
      }
      this.#prepared.push({ fd, queue, netTile });
    }
  }

  /**
   * Attaches, natively if that works, unless it is attached, and binds the prepared sockets in place of those that are
   * bound. Throws OccupiedError if another program is attached, and SystemError if no other mode would help; then it
   * is closed. Throws Error with the reasons if no mode works; then it is as after `reset`.
   */
  open(binding: Binding): Opened {
    this.#close(this.sockets);
    this.sockets = [];
    const refused = this.#on !== null ? this.#bind(binding) : this.#openAnew(binding);
    if (refused !== null) {
      this.reset();
      throw new Error(refused);
    }
    this.sockets = this.#prepared;
    this.#binding = binding;
    this.#prepared = [];
    this.#bound = 0;
    return this.#on!.how;
  }

  /** Attaches and binds. Returns why that failed, or null. */
  #openAnew(binding: Binding): string | null {
    const native = this.#notNative === ""
      ? this.#try({ attach: "native", reason: "" }, binding)
      : this.#notNative;
    // Zero-copy needs the driver, which generic mode bypasses.
    if (native === null || binding === "zero-copy") return native;
    const generic = this.#try({ attach: "generic", reason: native }, binding);
    return generic === null ? null : `native ${native}, generic ${generic}`;
  }

  /** Tries one mode. Sockets stay bound: in copy mode that does not depend on the attachment. */
  #try(how: Opened, binding: Binding): string | null {
    const refused = this.#dispatcher
      ? this.#bind(binding) ?? this.#join(how)
      : this.#attach(how) ?? this.#bind(binding);
    if (refused !== null) this.detach();
    return refused;
  }

  #attach(how: Opened): string | null {
    const link = this.#setup.attach(this.#program, this.ifindex, how.attach);
    if (link < 0) {
      const occupant = this.#setup.attached(this.ifindex);
      if (occupant === null) return describeErrno(link);
      this.close();
      throw new OccupiedError(this.name, occupant);
    }
    this.#on = { how, link };
    return null;
  }

  #join(how: Opened): string | null {
    const refused = this.#setup.join(this.#program, this.ifindex, how.attach);
    if (refused === -EEXIST) return "libxdp's dispatcher is attached in the other mode";
    if (refused === -EINVAL) {
      this.close();
      throw new Error(
        "no dispatcher of libxdp; it takes a kernel that puts a BPF program in place of a function " +
          "(BPF_PROG_TYPE_EXT), and bpffs at /sys/fs/bpf",
      );
    }
    if (refused < 0) return `libxdp's dispatcher: ${describeErrno(refused)}`;
    this.#on = { how, link: null };
    return null;
  }

  /** Binds the prepared sockets that are not bound. */
  #bind(binding: Binding): string | null {
    for (const { fd, queue } of this.#prepared.slice(this.#bound)) {
      const error = this.#setup.bind(fd, { ifindex: this.ifindex, queue, mode: binding });
      const lives = this.#dispatcher && error === -EBUSY;
      // Another mode would not help.
      if (error === -ENOBUFS || lives) {
        this.close();
        throw new SystemError("open an AF_XDP socket", error);
      }
      if (error < 0) return `queue ${queue}: ${describeErrno(error)}`;
      this.#bound++;
    }
    return null;
  }

  /**
   * Detaches, and prepares all sockets for another `open`. A socket can be bound only once, so if any is bound all are
   * closed and created again, with other descriptors. Throws SystemError.
   */
  reset(): void {
    this.detach();
    if (this.#bound === 0 && this.sockets.length === 0) return;
    this.close();
    this.prepare(this.#shares);
  }

  /** Puts the sockets into the program's map: from now on they receive our frames. */
  serve(): void {
    for (const { queue, fd } of this.sockets) this.#setup.register(this.#program, queue, fd);
  }

  get attached(): boolean {
    return this.#on !== null;
  }

  /** Frames that the program has redirected to the socket of `queue`. */
  redirected(queue: number): number {
    return Number(this.#redirected[queue]);
  }

  /** What the appliance needs, by name: the filter map, and the prepared sockets, else the bound ones. */
  get descriptors(): readonly { readonly name: string; readonly fd: number }[] {
    const sockets = this.#prepared.length > 0 ? this.#prepared : this.sockets;
    return [
      { name: `filter ${this.name}`, fd: this.#program.filter },
      ...sockets.map(({ queue, fd }) => ({ name: socketName(this.name, queue), fd })),
    ];
  }

  /**
   * Detaches the program: the kernel has all frames at once. Returns -errno if it stays in a dispatcher, where it does
   * nothing once the sockets are closed.
   */
  detach(): number {
    const on = this.#on;
    this.#on = null;
    if (on === null) return 0;
    if (on.link === null) return this.#setup.leave(this.ifindex);
    this.#setup.detach(on.link);
    return 0;
  }

  /** Detaches and closes all sockets, which no net tile may use any more. */
  close(): void {
    this.detach();
    this.#discard();
    this.#close(this.sockets);
    this.sockets = [];
  }

  /** Closes the attachment for good, also the program. */
  unload(): void {
    this.close();
    this.#setup.unload(this.#program);
  }

  #discard(): void {
    this.#close(this.#prepared);
    this.#prepared = [];
    this.#bound = 0;
  }

  #close(sockets: readonly QueueSocket[]): void {
    for (const { fd } of sockets) this.#setup.close(fd);
  }
}

export function descriptorsOf({ program, link, sockets }: AttachmentState): number[] {
  const links = link === null ? [] : [link];
  return [...Object.values(program), ...links, ...sockets.map(({ fd }) => fd)];
}

/** Identifies the sockets of all attachments. */
export function socketsOf(attachments: readonly Attachment[]): string {
  return JSON.stringify(attachments.map(({ descriptors }) => descriptors));
}

/** Opens all in the best mode that works for all of them. Returns the mode of each, and why. */
export function attachAll(
  attachments: readonly Attachment[],
  copyOnly: ReadonlySet<string>,
): readonly { mode: string; reason: string }[] {
  try {
    const name = attachments.find(({ name }) => copyOnly.has(name))?.name;
    if (name !== undefined) throw new Error(`a queue of ${name} refused it`);
    for (const attachment of attachments) attachment.open("zero-copy");
    return attachments.map(() => ({ mode: "xdp zero-copy", reason: "the driver has it" }));
  } catch (error) {
    if (!(error instanceof Error) || error instanceof OccupiedError) throw error;
    for (const attachment of attachments) attachment.reset();
    const zeroCopy = `no zero-copy: ${error.message}`;
    return attachments.map((attachment) => {
      const { attach, reason } = attachment.open("copy");
      return {
        mode: `xdp ${attach} copy`,
        reason: reason === "" ? zeroCopy : `${zeroCopy}; no native mode: ${reason}`,
      };
    });
  }
}

// The watch of what is attached: frames that the XDP program redirects to a queue's socket have to arrive in
// its ring. An interface where none do, as with a driver that advertises what does not work, is detached, and
// the kernel's sockets serve it. An interface that is deleted is detached, too. If it is created again under
// its name it is another interface, without a program or sockets.

/** The watched part of an attachment. Its sockets may be replaced. */
type Watched = Pick<
  Attachment,
  "name" | "ifindex" | "sockets" | "redirected" | "detach"
>;

const POLL_MILLIS = 1000;
/** Polls in a row with redirected frames and without a received one, until an interface is detached. */
const POLLS = 3;

/** The last poll of a socket. */
interface Seen {
  redirected: number;
  arrived: number;
  /** Polls in a row with redirected frames and without a received one. */
  bad: number;
}

/**
 * Polls these every second until `stop`. The timer does not keep the process alive. `exists`: whether an interface has
 * this index. `gone` is called for an interface that was deleted: it has been detached and is not watched any more.
 */
export function watchRings(
  attachments: readonly Watched[],
  { xskSetup, exists, gone, log }: {
    xskSetup: Pick<XskSetup, "statistics">;
    exists(ifindex: number): boolean;
    gone(attachment: Watched): void;
    log(line: string): void;
  },
) {
  let present = attachments;
  /** By descriptor. */
  const seenBefore = new Map<number, Seen>();
  const statistics = new BigUint64Array(XSK_STATISTICS);

  /** Polls one socket. Returns whether its frames do not arrive. */
  function lies(attachment: Watched, fd: number, queue: number): boolean {
    if (xskSetup.statistics(fd, statistics) < 0) return false;
    const redirected = attachment.redirected(queue);
    const { received, rxDropped, rxRingFull } = XskStatistic;
    // The socket's drops have arrived, too.
    const arrived = Number(statistics[received] + statistics[rxDropped] + statistics[rxRingFull]);
    const seen = seenBefore.getOrInsert(fd, { redirected: 0, arrived: 0, bad: 0 });
    if (arrived !== seen.arrived) seen.bad = 0;
    // Without redirected frames nothing is known.
    else if (redirected > seen.redirected) seen.bad++;
    [seen.redirected, seen.arrived] = [redirected, arrived];
    if (seen.bad < POLLS) return false;
    seen.bad = 0;
    return true;
  }

  function poll(): void {
    present = present.filter((attachment) => {
      if (exists(attachment.ifindex)) return true;
      attachment.detach();
      gone(attachment);
      return false;
    });
    for (const attachment of present) {
      if (!attachment.sockets.some(({ fd, queue }) => lies(attachment, fd, queue))) continue;
      attachment.detach();
      log(`${attachment.name}: frames are redirected but do not arrive; the kernel has them again`);
    }
  }

  const timer = setInterval(poll, POLL_MILLIS);
  Deno.unrefTimer(timer);
  return { poll, stop: () => clearInterval(timer) };
}
