// SPDX-License-Identifier: Apache-2.0
/**
 * The master's setup of AF_XDP on an interface: the XDP program with its maps, and one socket for each queue.
 * The program is attached before the sockets are in its map, and passes all frames to the kernel until then.
 *
 *     const attachment = new Attachment(setup, { name, ifindex, queues, map }); // loads the program
 *     attachment.prepare(shares); // creates sockets, not bound: to be handed over (`descriptors`) and mapped
 *     attachment.open("copy");    // attaches the program and binds the sockets
 *     attachment.serve();         // frames now arrive by AF_XDP
 *     attachment.detach();        // frames now go to the kernel
 *
 * A socket can be bound only once. To bind again, or if an interface was recreated with another
 * index, `unload` the attachment and make another.
 *
 * The program is attached alone, by a link that ends with this process, or as one of the programs
 * of libxdp's dispatcher. The latter stays attached if Tegula is killed. The queues of such a
 * leftover have no sockets. So with a dispatcher the sockets are bound first, and closed last.
 */

import { describeErrno, EBUSY, EEXIST, EINVAL, ENOBUFS, SystemError } from "../ffi/library.ts";
import { u64, type View } from "../ffi/region.ts";
import { FILTER_BYTES, XSK_STATISTICS, XskStatistic } from "../ffi/shared.ts";
import type { XdpProgram, XskSetup } from "../ffi/xsk.ts";
import { seedFilter } from "../tiles/netlink/xdp_filter.ts";
import * as plan from "../tiles/runtime/plan.ts";
import { socketName } from "../tiles/runtime/wiring.ts";

/** How sockets are bound: without or with copies. All sockets of a UMEM have the same mode. */
export type Binding = "zero-copy" | "copy";

interface QueueSocket {
  readonly fd: number;
  readonly queue: number;
}

export interface Opened {
  readonly attach: "native" | "generic";
  /** Why it is not native; empty if it is. */
  readonly reason: string;
}

/**
 * An open attachment, for this process's next program. All its numbers except indices are
 * descriptors that stay open.
 */
export interface AttachmentState {
  readonly program: XdpProgram;
  /** The bpf_link; null if libxdp's dispatcher runs the program. */
  readonly link: number | null;
  readonly how: Opened;
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
  /** One for each queue. */
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
  /** How many of the sockets are bound. */
  #bound = 0;
  /** How the program is attached, and its link, or null if a dispatcher runs it. */
  #on: { readonly how: Opened; readonly link: number | null } | null = null;

  /**
   * Loads the program for `queues` queues without attaching it. `before`: the `state` from this
   * process's previous program, which stays open.
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
      before?: AttachmentState;
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
    this.#program = before?.program ?? setup.load(queues);
    this.filter = map(this.#program.filter, FILTER_BYTES);
    if (before === undefined) seedFilter(this.filter);
    this.#redirected = u64(map(this.#program.redirected, 8 * queues));
    if (before === undefined) return;
    const { link, how, sockets } = before;
    [this.sockets, this.#bound] = [sockets, sockets.length];
    this.#on = { how, link };
    for (const { fd } of sockets) setup.inherit(fd);
  }

  /** The state for this process's next program; null if it is not open. */
  get state(): AttachmentState | null {
    if (this.#on === null) return null;
    return { program: this.#program, ...this.#on, sockets: this.sockets };
  }

  /** Creates a socket for each queue, on the UMEM of its net tile. Throws SystemError. */
  prepare(queues: readonly { readonly queue: number; readonly umem: View }[]): void {
    for (const { queue, umem } of queues) {
      const fd = this.#setup.prepare(umem, SOCKET_OPTIONS);
      if (fd < 0) throw new SystemError("open an AF_XDP socket", fd);
      this.sockets = [...this.sockets, { fd, queue }];
    }
  }

  /**
   * Attaches, in native mode if possible, and binds the sockets. Throws OccupiedError if another
   * program is attached, and SystemError if no other mode would help; then it is closed. Throws Error
   * with the reasons if no mode works; then another `binding` can be tried, unless it is `spent`.
   */
  open(binding: Binding): Opened {
    const refused = this.#tryModes(binding);
    if (refused !== null) throw new Error(refused);
    return this.#on!.how;
  }

  /** Whether no other `binding` can be tried: a socket is bound, or the attachment is closed. */
  get spent(): boolean {
    return this.#bound > 0 || this.sockets.length === 0;
  }

  /** Attaches and binds. Returns why that failed, or null. */
  #tryModes(binding: Binding): string | null {
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
        "no dispatcher of libxdp; it needs a kernel that can replace functions by BPF programs " +
          "(BPF_PROG_TYPE_EXT), and bpffs at /sys/fs/bpf",
      );
    }
    if (refused < 0) return `libxdp's dispatcher: ${describeErrno(refused)}`;
    this.#on = { how, link: null };
    return null;
  }

  /** Binds the sockets that are not bound. */
  #bind(binding: Binding): string | null {
    for (const { fd, queue } of this.sockets.slice(this.#bound)) {
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

  /** Puts the sockets into the program's map, so that they receive our frames. */
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

  /** The appliance's descriptors by name: the filter map and the sockets. */
  get descriptors(): readonly { readonly name: string; readonly fd: number }[] {
    return [
      { name: `filter ${this.name}`, fd: this.#program.filter },
      ...this.sockets.map(({ queue, fd }) => ({ name: socketName(this.name, queue), fd })),
    ];
  }

  /**
   * Detaches the program: all frames go to the kernel at once. Returns -errno if it stays in a
   * dispatcher, where it passes all frames once the sockets are closed.
   */
  detach(): number {
    const on = this.#on;
    this.#on = null;
    if (on === null) return 0;
    if (on.link === null) return this.#setup.leave(this.ifindex);
    this.#setup.detach(on.link);
    return 0;
  }

  /** Detaches, and closes all sockets. No net tile may still use them. */
  close(): void {
    this.detach();
    for (const { fd } of this.sockets) this.#setup.close(fd);
    this.sockets = [];
  }

  /** Closes the attachment and the program for good. */
  unload(): void {
    this.close();
    this.#setup.unload(this.#program);
  }
}

export function descriptorsOf({ program, link, sockets }: AttachmentState): number[] {
  const links = link === null ? [] : [link];
  return [...Object.values(program), ...links, ...sockets.map(({ fd }) => fd)];
}

/**
 * Opens all attachments in the best mode that works for all of them. Returns the mode of each, and the reason.
 * Returns null if zero-copy was refused after it worked for some of the sockets: they can be bound only once,
 * so all must be created again. `copyOnly` gets the interface that refused, and zero-copy is not tried again.
 */
export function attachAll(
  attachments: readonly Attachment[],
  copyOnly: Set<string>,
): readonly { mode: string; reason: string }[] | null {
  let tried = attachments.find(({ name }) => copyOnly.has(name))?.name;
  let refused = `a queue of ${tried} refused it`;
  if (tried === undefined) {
    try {
      for (const attachment of attachments) {
        tried = attachment.name;
        attachment.open("zero-copy");
      }
      return attachments.map(() => ({ mode: "xdp zero-copy", reason: "the driver has it" }));
    } catch (error) {
      if (!(error instanceof Error) || error instanceof OccupiedError) throw error;
      refused = error.message;
    }
    if (attachments.some(({ spent }) => spent)) {
      copyOnly.add(tried!);
      return null;
    }
  }
  const zeroCopy = `no zero-copy: ${refused}`;
  return attachments.map((attachment) => {
    const { attach, reason } = attachment.open("copy");
    return {
      mode: `xdp ${attach} copy`,
      reason: reason === "" ? zeroCopy : `${zeroCopy}; no native mode: ${reason}`,
    };
  });
}

// Watches attachments: frames that the XDP program redirects to a queue's socket must arrive in its
// ring. If none arrive, because a driver's AF_XDP does not work, the interface is detached, and the
// kernel's sockets serve it. A deleted interface is detached, too. A new interface of the same name
// has no program or sockets.

/** The watched part of an attachment. */
type Watched = Pick<Attachment, "name" | "ifindex" | "sockets" | "redirected" | "detach">;

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
 * Polls the attachments every second until `stop`. The timer does not keep the process alive.
 * `exists`: whether an interface has this index. `lost` gets a log line after an attachment was
 * detached; a deleted interface is no longer watched.
 */
export function watchRings(
  attachments: readonly Watched[],
  { xskSetup, exists, lost }: {
    xskSetup: Pick<XskSetup, "statistics">;
    exists(ifindex: number): boolean;
    lost(line: string): void;
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
    // Frames that the socket dropped have also arrived.
    const arrived = Number(statistics[received] + statistics[rxDropped] + statistics[rxRingFull]);
    const seen = seenBefore.getOrInsert(fd, { redirected: 0, arrived: 0, bad: 0 });
    if (arrived !== seen.arrived) seen.bad = 0;
    // Without redirected frames the state is unknown.
    else if (redirected > seen.redirected) seen.bad++;
    [seen.redirected, seen.arrived] = [redirected, arrived];
    if (seen.bad < POLLS) return false;
    seen.bad = 0;
    return true;
  }

  function poll(): void {
    present = present.filter((attachment) => {
      const { name, ifindex, sockets } = attachment;
      const isThere = exists(ifindex);
      if (isThere && !sockets.some(({ fd, queue }) => lies(attachment, fd, queue))) return true;
      attachment.detach();
      const why = isThere
        ? "frames are redirected but do not arrive; they are returned to the kernel"
        : "it was deleted, and AF_XDP with it; if it is recreated, AF_XDP is opened again";
      lost(`${name}: ${why}`);
      return isThere;
    });
  }

  const timer = setInterval(poll, POLL_MILLIS);
  Deno.unrefTimer(timer);
  return { poll, stop: () => clearInterval(timer) };
}
