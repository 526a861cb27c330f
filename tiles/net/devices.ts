/**
 * Interfaces as the wire sees them: which attached device a frame leaves by and with which VLAN tags,
 * and which VLAN device a tagged frame came in on. Follows the interface table; what was looked up
 * is kept for one generation of netbase.
 */

import type { NetbaseReader } from "../../netbase/netbase.ts";
import { ETH_P_8021AD, MOST_TAGS } from "./frame.ts";
import type { XdpSocketSetup } from "./xdp_port.ts";

/** Where frames of an interface go: made anew for each generation. */
export interface Egress {
  /** Indices of the ports on the device below, one for each of its queues that is ours and can send. */
  readonly ports: readonly number[];
  /** VLAN protocol << 16 | id of each tag, the outermost first. */
  readonly tags: readonly number[];
}

/** What the interface table says of the devices that this tile has sockets on. */
export class Devices {
  readonly #reader: NetbaseReader;
  readonly #ports = new Map<number, number[]>();
  readonly #egress = new Map<number, Egress | null>();
  /** By device, then by VLAN id with a bit for the protocol. */
  readonly #tagged = new Map<number, Map<number, number>>();
  #generation = -1;

  /** `sockets` are those of the ports, by index. */
  constructor(
    reader: NetbaseReader,
    sockets: readonly Pick<XdpSocketSetup, "ifindex" | "receivesOnly">[],
  ) {
    this.#reader = reader;
    sockets.forEach(({ ifindex, receivesOnly = false }, port) => {
      if (receivesOnly) return;
      const others = this.#ports.get(ifindex);
      if (others === undefined) this.#ports.set(ifindex, [port]);
      else others.push(port);
    });
  }

  /** How frames leave by `ifindex`, null when not through a socket of this tile. */
  egress(ifindex: number): Egress | null {
    this.#refresh();
    let found = this.#egress.get(ifindex);
    if (found === undefined) {
      found = this.#walk(ifindex);
      this.#egress.set(ifindex, found);
    }
    return found;
  }

  /**
   * Index of the VLAN device above `ifindex` that takes frames with the tag `protocol`, `id`; -1 when
   * there is none that is up. Id 0 is no VLAN, only a priority, and belongs to the device itself.
   */
  tagged(ifindex: number, protocol: number, id: number): number {
    if (id === 0) return ifindex;
    this.#refresh();
    let above = this.#tagged.get(ifindex);
    if (above === undefined) this.#tagged.set(ifindex, above = new Map());
    // A small integer, so that nothing is allocated to look it up.
    const key = protocol === ETH_P_8021AD ? id | 0x1000 : id;
    let found = above.get(key);
    if (found === undefined) {
      found = this.#findTagged(ifindex, protocol * 0x10000 + id);
      above.set(key, found);
    }
    return found;
  }

  #findTagged(ifindex: number, vlan: number): number {
    const { interfaces } = this.#reader;
    const record = interfaces.records().find((record) =>
      interfaces.vlan(record) === vlan && interfaces.link(record) === ifindex &&
      interfaces.isUp(record)
    );
    return record === undefined ? -1 : interfaces.ifindex(record);
  }

  /** From an interface down to a device with a socket, gathering tags on the way. */
  #walk(ifindex: number): Egress | null {
    const { interfaces } = this.#reader;
    const tags: number[] = [];
    for (let device = ifindex;;) {
      const ports = this.#ports.get(device);
      if (ports !== undefined) return { ports, tags };
      const record = interfaces.find(device);
      const vlan = record < 0 ? 0 : interfaces.vlan(record);
      if (vlan === 0 || tags.length === MOST_TAGS) return null;
      tags.unshift(vlan);
      device = interfaces.link(record);
    }
  }

  #refresh(): void {
    if (this.#generation === this.#reader.generation) return;
    this.#generation = this.#reader.generation;
    this.#egress.clear();
    this.#tagged.clear();
  }
}
