/**
 * An interface's part in AF_XDP, as the master sets it up: the XDP program with its maps, and one socket
 * for each queue. The program is attached before the sockets are in its map, and passes everything to the
 * kernel until they are.
 *
 *     const attachment = new Attachment(setup, { name, ifindex, queues, map }); // loads the program
 *     attachment.prepare(shares); // sockets, not bound: to be handed over (`descriptors`) and mapped
 *     attachment.open("copy");    // attaches the program and binds the sockets
 *     attachment.serve();         // from now on frames come by AF_XDP
 *     attachment.pause();         // from now on the kernel has them
 *
 * Other sockets are prepared beside those that serve, and replace them by `open`. An interface that was
 * deleted and made again has another index: `unload` the attachment and make another.
 *
 * The program is attached by itself, by a link that goes with this process, or as one of those that
 * libxdp's dispatcher runs there. Out of that one it goes only when it is taken out: a Tegula that was
 * killed leaves it behind. What tells such a one from that of a Tegula that lives is that nobody has the
 * queues' sockets; so there they are bound first, and let go of last.
 */

import { describeErrno, EBUSY, EEXIST, EINVAL, ENOBUFS, SystemError } from "../ffi/library.ts";
import { u64, type View } from "../ffi/region.ts";
import { FILTER_BYTES, XSK_STATISTICS, XskStatistic } from "../ffi/shared.ts";
import type { XdpProgram, XskSetup } from "../ffi/xsk.ts";
import { seedFilter } from "../tiles/netlink/xdp_filter.ts";
import * as plan from "../tiles/runtime/plan.ts";

/** How sockets are bound: the frames in place, or copied. All sockets of a UMEM share it. */
export type Binding = "zero-copy" | "copy";

/** A queue's AF_XDP socket: its descriptor, and which net tile has it. */
export interface QueueSocket {
  readonly fd: number;
  readonly queue: number;
  readonly netTile: number;
}

/** A queue, the net tile that has it, and that tile's UMEM. */
export interface Share {
  readonly queue: number;
  readonly netTile: number;
  readonly umem: View;
}

/** What became of `open`. */
export interface Opened {
  /** How the program is attached. */
  readonly attach: "native" | "generic";
  /** Why it is not native; empty where it is. */
  readonly reason: string;
}

/** A descriptor for another process, by the name that it is handed under (`handed.ts`). */
export interface NamedDescriptor {
  readonly name: string;
  readonly fd: number;
}

/**
 * An open attachment, for the program that this process executes in its place. All numbers in it but
 * indices are descriptors, which stay open then.
 */
export interface AttachmentState {
  readonly program: XdpProgram;
  /** The bpf_link; null where libxdp's dispatcher runs the program. */
  readonly link: number | null;
  readonly how: Opened;
  readonly binding: Binding;
  readonly sockets: readonly QueueSocket[];
}

/** The name of libxdp's dispatcher, as the kernel keeps it. */
export const DISPATCHER = "xdp_dispatcher";

/** Another program sits on an interface. */
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

/** One interface of ours. */
export class Attachment {
  readonly name: string;
  readonly ifindex: number;
  /** The program's filter map, to be written by the netlink tile. */
  readonly filter: View;
  /** Why it is not to be tried natively; empty where it is. */
  readonly #notNative: string;
  /** Whether it is to be one of those that libxdp's dispatcher runs. */
  readonly #dispatcher: boolean;
  readonly #setup: XskSetup;
  readonly #program: XdpProgram;
  /** Frames handed to the socket of each queue, counted by the program. */
  readonly #redirected: BigUint64Array;
  /** What `prepare` made sockets for. */
  #shares: readonly Share[] = [];
  /** Those that are not bound, or not all. */
  #prepared: QueueSocket[] = [];
  /** How many of `#prepared` are bound. */
  #bound = 0;
  /** Those that are bound, and how. */
  #sockets: readonly QueueSocket[] = [];
  #binding: Binding = "copy";
  /** How the program is attached, and its link, or null where a dispatcher runs it. */
  #on: { readonly how: Opened; readonly link: number | null } | null = null;

  /**
   * Loads the program for `queues` queues; nothing is attached yet. With `before`, which is what `state` was
   * before this process executed another program, it goes on with what is open.
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
      /** One whose program is on the interface until this one is attached. */
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
    if (before !== undefined) this.#goOn(before.state, before.shares);
  }

  #goOn({ link, how, binding, sockets }: AttachmentState, shares: readonly Share[]): void {
    this.#shares = shares;
    this.#sockets = sockets;
    this.#on = { how, link };
    this.#binding = binding;
    for (const { fd, netTile } of sockets) {
      const { umem } = shares.find((share) => share.netTile === netTile)!;
      this.#setup.inherit(fd, umem, SOCKET_OPTIONS, binding);
    }
  }

  /** What goes on in the program that this process executes in its place; null when it is not open. */
  get state(): AttachmentState | null {
    if (this.#on === null) return null;
    const program = this.#program;
    return { program, ...this.#on, binding: this.#binding, sockets: this.#sockets };
  }

  /**
   * Makes a socket for each share, on the UMEM of the net tile that has the queue, in place of those that
   * were prepared and not bound. Throws SystemError; nothing is prepared then.
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
   * Attaches, natively if that works, unless it is attached, and binds the prepared sockets in place of
   * those that were bound before. Throws OccupiedError when another program came first, and SystemError
   * where no other way would help: it is closed then. Throws Error with the reasons when nothing works:
   * it is as after `reset` then.
   */
  open(binding: Binding): Opened {
    this.#close(this.#sockets);
    this.#sockets = [];
    const refused = this.#on !== null ? this.#bind(binding) : this.#openAnew(binding);
    if (refused !== null) {
      this.reset();
      throw new Error(refused);
    }
    this.#sockets = this.#prepared;
    this.#binding = binding;
    this.#prepared = [];
    this.#bound = 0;
    return this.#on!.how;
  }

  /** Attaches and binds; returns why it does not work, null when it does. */
  #openAnew(binding: Binding): string | null {
    const native = this.#notNative === ""
      ? this.#try({ attach: "native", reason: "" }, binding)
      : this.#notNative;
    // Zero-copy is the driver's, generic mode goes around the driver: the two exclude each other.
    if (native === null || binding === "zero-copy") return native;
    const generic = this.#try({ attach: "generic", reason: native }, binding);
    return generic === null ? null : `native ${native}, generic ${generic}`;
  }

  /** One way. What it has bound stays so: in copy mode that is the same for both. */
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

  /** Binds those of the prepared sockets that are not. */
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
   * Detaches, and has all sockets prepared for another `open`. A socket is bound once, so where any is, all
   * are closed and made anew, with other descriptors. Throws SystemError.
   */
  reset(): void {
    this.detach();
    if (this.#bound === 0 && this.#sockets.length === 0) return;
    this.close();
    this.prepare(this.#shares);
  }

  /** Puts the sockets into the program's map: from now on frames for us come through them. */
  serve(): void {
    for (const { queue, fd } of this.#sockets) this.#setup.register(this.#program, queue, fd);
  }

  /** Takes the sockets out of the program's map: from now on the kernel has all frames. */
  pause(): void {
    for (const { queue } of this.#sockets) this.#setup.unregister(this.#program, queue);
  }

  /** Whether the program is on the interface. */
  get attached(): boolean {
    return this.#on !== null;
  }

  /** Frames that the program has handed to the socket of `queue`. */
  redirected(queue: number): number {
    return Number(this.#redirected[queue]);
  }

  /** The sockets that are bound. */
  get sockets(): readonly QueueSocket[] {
    return this.#sockets;
  }

  /** The sockets that `open` will bind. */
  get prepared(): readonly QueueSocket[] {
    return this.#prepared;
  }

  /** What another process needs: the filter map, and the sockets that are prepared, or else bound. */
  get descriptors(): readonly NamedDescriptor[] {
    const sockets = this.#prepared.length > 0 ? this.#prepared : this.#sockets;
    return [
      { name: `filter ${this.name}`, fd: this.#program.filter },
      ...sockets.map(({ queue, fd }) => ({ name: `xsk ${this.name}/${queue}`, fd })),
    ];
  }

  /**
   * Takes the program off the interface: the kernel has all frames again at once. -errno when it stays
   * in a dispatcher, where it does nothing once the sockets are closed.
   */
  detach(): number {
    const on = this.#on;
    this.#on = null;
    if (on === null) return 0;
    if (on.link === null) return this.#setup.leave(this.ifindex);
    this.#setup.detach(on.link);
    return 0;
  }

  /** Detaches and closes all sockets; no net tile may use them any more. */
  close(): void {
    this.detach();
    this.#discard();
    this.#close(this.#sockets);
    this.#sockets = [];
  }

  /** Closes, and lets go of the program. It is not to be used any more. */
  unload(): void {
    this.close();
    this.#setup.unload(this.#program);
  }

  /** Closes what is prepared. */
  #discard(): void {
    this.#close(this.#prepared);
    this.#prepared = [];
    this.#bound = 0;
  }

  #close(sockets: readonly QueueSocket[]): void {
    for (const { fd } of sockets) this.#setup.close(fd);
  }
}

/** Every descriptor of an attachment. */
export function descriptorsOf({ program, link, sockets }: AttachmentState): number[] {
  const links = link === null ? [] : [link];
  return [...Object.values(program), ...links, ...sockets.map(({ fd }) => fd)];
}

/** Which sockets there are. */
export function socketsOf(attachments: readonly Attachment[]): string {
  return JSON.stringify(attachments.map(({ descriptors }) => descriptors));
}

/** Binds all in the best mode that works for all of them, and says in which and why. */
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

/** What is watched of an interface. Its sockets may be replaced. */
export type Watched = Pick<
  Attachment,
  "name" | "ifindex" | "sockets" | "redirected" | "detach"
>;

/** What the watch polls with. */
export interface WatchParts {
  readonly xskSetup: Pick<XskSetup, "statistics">;
  /** Whether there is an interface with this index. */
  exists(ifindex: number): boolean;
  /** An interface was deleted. It is detached and not watched any more. */
  gone(attachment: Watched): void;
  log(line: string): void;
}

const POLL_MILLIS = 1000;
/** Polls with frames redirected, and none received from the first to the last, before it is believed. */
const POLLS = 3;

/** What was seen of a socket. */
interface Seen {
  redirected: number;
  arrived: number;
  /** Polls in a row with frames redirected and none arrived. */
  bad: number;
}

/** Watches some interfaces and every queue of them. */
export class RingWatch {
  readonly #parts: WatchParts;
  /** Those that are still there. */
  #present: readonly Watched[];
  /** By descriptor. */
  readonly #seen = new Map<number, Seen>();
  #timer?: ReturnType<typeof setInterval>;
  readonly #statistics = new BigUint64Array(XSK_STATISTICS);

  constructor(attachments: readonly Watched[], parts: WatchParts) {
    this.#parts = parts;
    this.#present = attachments;
  }

  /** Polls now and then. The timer does not keep the process alive. */
  start(): void {
    this.#timer = setInterval(() => this.poll(), POLL_MILLIS);
    Deno.unrefTimer(this.#timer);
  }

  /** Ends that. */
  stop(): void {
    clearInterval(this.#timer);
  }

  /** Polls once. */
  poll(): void {
    this.#missGone();
    for (const attachment of this.#present) {
      if (!attachment.sockets.some(({ fd, queue }) => this.#lies(attachment, fd, queue))) continue;
      attachment.detach();
      this.#parts.log(
        `${attachment.name}: frames are redirected but do not arrive; the kernel has them again`,
      );
    }
  }

  /** Polls one socket; whether it is one whose frames do not arrive. */
  #lies(attachment: Watched, fd: number, queue: number): boolean {
    if (this.#parts.xskSetup.statistics(fd, this.#statistics) < 0) return false;
    const redirected = attachment.redirected(queue);
    const arrived = this.#arrived();
    const seen = this.#seen.get(fd) ?? { redirected: 0, arrived: 0, bad: 0 };
    this.#seen.set(fd, seen);
    if (arrived !== seen.arrived) seen.bad = 0;
    // Where nothing comes, nothing is learned.
    else if (redirected > seen.redirected) seen.bad++;
    seen.redirected = redirected;
    seen.arrived = arrived;
    if (seen.bad < POLLS) return false;
    seen.bad = 0;
    return true;
  }

  #missGone(): void {
    const { exists, gone } = this.#parts;
    this.#present = this.#present.filter((attachment) => {
      if (exists(attachment.ifindex)) return true;
      attachment.detach();
      gone(attachment);
      return false;
    });
  }

  /** Frames that came, or that the socket itself says it dropped: a known loss, not a lie. */
  #arrived(): number {
    const { received, rxDropped, rxRingFull } = XskStatistic;
    const all = this.#statistics;
    return Number(all[received] + all[rxDropped] + all[rxRingFull]);
  }
}
