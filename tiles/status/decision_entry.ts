/**
 * What `netbase/route_decision.ts` decides about an address, as an object with iproute2's names: the answer
 * of `tegula route get`, whether asked of a mirror or of a running appliance.
 */

import { decide, type Decision, emptyDecision } from "../../netbase/route_decision.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { RTN_UNSPEC } from "../../netbase/route.ts";
import { formatAddress } from "../netlink/addresses.ts";
import { type Entry, interfaceNames, typeName } from "../netlink/entries.ts";

/** Decides and tells. Keeps what it needs to know of interfaces for one generation of netbase. */
export class DecisionEntries {
  readonly #reader: NetbaseReader;
  readonly #decision = emptyDecision();
  #nameOf: (ifindex: number) => string;
  #generation: number;

  constructor(reader: NetbaseReader) {
    this.#reader = reader;
    this.#nameOf = interfaceNames(reader.interfaces);
    this.#generation = reader.generation;
  }

  /** The decision for an address as `ip -j route get` would name its parts. Addresses in host order. */
  entry(destination: number, source: number): Entry {
    const { generation, interfaces } = this.#reader;
    if (generation !== this.#generation) this.#nameOf = interfaceNames(interfaces);
    this.#generation = generation;
    const decision = this.#decision;
    const kind = decide(this.#reader, destination, source, 0, decision);
    const dst = formatAddress(destination);
    const type = typeName(kind);
    if (kind === RTN_UNSPEC) return { dst, type };
    return {
      dst,
      type,
      ...(decision.group === 0 && this.#way(decision)),
      ...(decision.source !== 0 && { prefsrc: formatAddress(decision.source) }),
      ...(decision.mtu !== 0 && { mtu: decision.mtu }),
      ...(decision.group !== 0 && { nexthops: this.#members(decision.group) }),
    };
  }

  #way({ gateway, ifindex }: Pick<Decision, "gateway" | "ifindex">): Entry {
    return {
      ...(gateway !== 0 && { gateway: formatAddress(gateway) }),
      ...(ifindex !== 0 && { dev: this.#nameOf(ifindex) }),
    };
  }

  #members(group: number): Entry[] {
    const { nextHops } = this.#reader;
    return Array.from({ length: nextHops.memberCount(group) }, (_, i) => {
      const id = nextHops.memberId(group, i);
      const way = { gateway: nextHops.gateway(id), ifindex: nextHops.ifindex(id) };
      return { ...this.#way(way), weight: nextHops.memberWeight(group, i) };
    });
  }
}
