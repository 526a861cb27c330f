/**
 * An interface's part in AF_XDP, as main sets it up: the XDP program with its maps, and one socket
 * for each queue. The program is attached before the sockets are in its map, and passes everything
 * to the kernel until they are.
 *
 * It is attached by itself, by a link that goes with this process, or as one of those that libxdp's
 * dispatcher runs there. Out of that one it goes only when it is taken out: a Tegula that was killed
 * leaves it behind. What tells such a one from that of a Tegula that lives is that nobody has the
 * queues' sockets; so there they are opened first, and let go of last.
 */

import {
  describeErrno,
  EAFNOSUPPORT,
  EBUSY,
  EEXIST,
  EINVAL,
  ENOBUFS,
  SystemError,
} from "../../ffi/errno.ts";
import { FILTER_BYTES, seedFilter } from "../../ffi/filter.ts";
import { u64, type View } from "../../ffi/view.ts";
import type { XdpProgram, XskSetup } from "../../ffi/xsk.ts";
import * as plan from "./plan.ts";

/** How sockets are bound: the frames in place, or copied. All sockets of a UMEM share it. */
export type Binding = "zero-copy" | "copy";

/** A queue's AF_XDP socket: its slot in the native library, and which net tile has it. */
export interface QueueSocket {
  readonly slot: number;
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
  #sockets: QueueSocket[] = [];
  /** How it is taken off again, once it is attached. */
  #takeOff: (() => number) | null = null;

  /** Loads the program for `queues` queues; nothing is attached yet. */
  constructor(
    setup: XskSetup,
    { name, ifindex, queues, map, notNative = "", dispatcher = false }: {
      name: string;
      ifindex: number;
      queues: number;
      map: (fd: number, byteLength: number) => View;
      notNative?: string;
      dispatcher?: boolean;
    },
  ) {
    this.#notNative = notNative;
    this.#dispatcher = dispatcher;
    this.#setup = setup;
    this.name = name;
    this.ifindex = ifindex;
    const occupant = setup.attached(ifindex);
    if (occupant !== null && !(dispatcher && occupant.name === DISPATCHER)) {
      throw new OccupiedError(this.name, occupant);
    }
    this.#program = setup.load(queues);
    this.filter = map(this.#program.filter, FILTER_BYTES);
    seedFilter(this.filter);
    this.#redirected = u64(map(this.#program.redirected, 8 * queues));
  }

  /**
   * Attaches, natively if that works, and opens a socket for each share on the UMEM of the net tile
   * that has the queue. Throws OccupiedError when another program came first, and Error with the
   * reasons when nothing works; nothing is left attached or open then.
   */
  open(shares: readonly Share[], binding: Binding): Opened {
    const native = this.#try("native", shares, binding);
    if (native === null) return { attach: "native", reason: "" };
    // Zero-copy is the driver's, generic mode goes around the driver: the two exclude each other.
    if (binding === "zero-copy") throw new Error(native);
    const generic = this.#try("generic", shares, binding);
    if (generic === null) return { attach: "generic", reason: native };
    throw new Error(`native ${native}, generic ${generic}`);
  }

  /** One way; returns why it does not work, null when it does. */
  #try(attach: "native" | "generic", shares: readonly Share[], binding: Binding): string | null {
    if (attach === "native" && this.#notNative !== "") return this.#notNative;
    const refused = this.#dispatcher
      ? this.#openSockets(shares, binding) ?? this.#join(attach)
      : this.#attach(attach) ?? this.#openSockets(shares, binding);
    if (refused !== null) this.close();
    return refused;
  }

  #attach(mode: "native" | "generic"): string | null {
    const link = this.#setup.attach(this.#program, this.ifindex, mode);
    if (link < 0) {
      const occupant = this.#setup.attached(this.ifindex);
      if (occupant !== null) throw new OccupiedError(this.name, occupant);
      return describeErrno(link);
    }
    this.#takeOff = () => {
      this.#setup.detach(link);
      return 0;
    };
    return null;
  }

  #join(mode: "native" | "generic"): string | null {
    const refused = this.#setup.join(this.#program, this.ifindex, mode);
    if (refused === -EEXIST) return "libxdp's dispatcher is attached in the other mode";
    if (refused === -EINVAL) {
      this.close();
      throw new Error(
        "no dispatcher of libxdp; it takes a kernel that puts a BPF program in place of a function " +
          "(BPF_PROG_TYPE_EXT), and bpffs at /sys/fs/bpf",
      );
    }
    if (refused < 0) return `libxdp's dispatcher: ${describeErrno(refused)}`;
    this.#takeOff = () => this.#setup.leave(this.ifindex);
    return null;
  }

  #openSockets(shares: readonly Share[], binding: Binding): string | null {
    for (const { queue, netTile, umem } of shares) {
      const slot = this.#setup.open(umem, {
        frameBytes: plan.FRAME_BYTES,
        headroom: plan.HEADROOM_BYTES,
        ring: plan.RING_ENTRIES,
        ifname: this.name,
        ifindex: this.ifindex,
        queue,
        mode: binding,
      });
      const lives = this.#dispatcher && slot === -EBUSY;
      // Another mode would not help.
      if (slot === -ENOBUFS || slot === -EAFNOSUPPORT || lives) {
        this.close();
        throw new SystemError("open an AF_XDP socket", slot);
      }
      if (slot < 0) return `queue ${queue}: ${describeErrno(slot)}`;
      this.#sockets.push({ slot, queue, netTile });
    }
    return null;
  }

  /** Puts the sockets into the program's map: from now on frames for us come through them. */
  serve(): void {
    for (const { slot } of this.#sockets) this.#setup.register(this.#program, slot);
  }

  /** Whether the program is on the interface. */
  get attached(): boolean {
    return this.#takeOff !== null;
  }

  /** Frames that the program has handed to the socket of `queue`. */
  redirected(queue: number): number {
    return Number(this.#redirected[queue]);
  }

  /**
   * Takes the program off the interface: the kernel has all frames again at once. -errno when it stays
   * in a dispatcher, where it does nothing once the sockets are closed.
   */
  detach(): number {
    const takeOff = this.#takeOff;
    this.#takeOff = null;
    return takeOff?.() ?? 0;
  }

  /** Detaches and closes the sockets; no net tile may use them any more. */
  close(): void {
    this.detach();
    for (const { slot } of this.#sockets) this.#setup.close(slot);
    this.#sockets = [];
  }

  /** The sockets that are open. */
  get sockets(): readonly QueueSocket[] {
    return this.#sockets;
  }
}
