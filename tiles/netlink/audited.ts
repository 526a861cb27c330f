/**
 * The tables that an audit compares with a fresh dump, each with what counts as a difference in it. The
 * dump is only looked at: events go on being applied meanwhile.
 *
 * @module
 */

import type { InterfaceAddress } from "../../netbase/interfaces.ts";
import { NUD_VALID } from "../../netbase/neighbors.ts";
import type { NetbaseWriter } from "../../netbase/netbase.ts";
import { type Route, RT_TABLE_LOCAL } from "../../netbase/route.ts";
import { formatAddress, formatPrefix } from "./addresses.ts";
import * as nl from "./constants.ts";
import { AddressMessage, decodeAddress, decodeLink, LinkMessage } from "./decode_link.ts";
import type { MessageCursor } from "./message.ts";
import type { NeighborsPart } from "./neighbors_part.ts";
import type { DumpKind } from "./requests.ts";
import type { RoutesPart } from "./routes_part.ts";

/** The tables, as the report names them. */
export type AuditTable = "interfaces" | "routes" | "neighbors";

/** Told of what differs: what it is, in words, which are the same for every difference in it. */
export type Differs = (what: string) => void;

/** One table. */
export interface Audited {
  readonly table: AuditTable;
  readonly dumps: readonly DumpKind[];
  /** How much the mirror has. */
  readonly entries: number;
  begin(): void;
  /** A message of a dump. */
  read(message: MessageCursor, differs: Differs): void;
  /** The dumps are over: looks for what they lacked. */
  end(differs: Differs): void;
  /** What an event is about, in the same words; null: none of ours. Not where it may be about more. */
  subject?(message: MessageCursor): string | null;
}

/** Links and the addresses on them. */
export class AuditedInterfaces implements Audited {
  readonly table = "interfaces";
  readonly dumps = ["links", "addresses"] as const;
  readonly #writer: NetbaseWriter;
  readonly #link = new LinkMessage();
  readonly #address = new AddressMessage();
  readonly #links = new Map<number, { link: LinkMessage; addresses: InterfaceAddress[] }>();

  constructor(writer: NetbaseWriter) {
    this.#writer = writer;
  }

  get entries(): number {
    return this.#writer.interfaces.size;
  }

  begin(): void {
    this.#links.clear();
  }

  read(message: MessageCursor): void {
    if (message.type === nl.RTM_NEWLINK) {
      decodeLink(message, this.#link);
      if (this.#link.family !== nl.AF_UNSPEC) return;
      this.#links.set(this.#link.ifindex, { link: { ...this.#link }, addresses: [] });
    } else if (decodeAddress(message, this.#address)) {
      this.#links.get(this.#address.ifindex)?.addresses.push({ ...this.#address });
    }
  }

  end(differs: Differs): void {
    const { interfaces } = this.#writer;
    for (const ifindex of new Set([...interfaces.indices(), ...this.#links.keys()])) {
      const dumped = this.#links.get(ifindex);
      const told = dumped && { ...dumped.link, addresses: dumped.addresses };
      const mirrored = interfaces.get(ifindex) ?? undefined;
      if (JSON.stringify(told) !== JSON.stringify(mirrored)) differs(`interface ${ifindex}`);
    }
  }
}

/** Routes of `local` and `main`, by prefix. */
export class AuditedRoutes implements Audited {
  readonly table = "routes";
  readonly dumps = ["routes"] as const;
  readonly #writer: NetbaseWriter;
  readonly #part: RoutesPart;

  constructor(writer: NetbaseWriter, part: RoutesPart) {
    this.#writer = writer;
    this.#part = part;
  }

  get entries(): number {
    return this.#writer.rib.size;
  }

  begin(): void {
    this.#writer.rib.beginSync();
  }

  read(message: MessageCursor, differs: Differs): void {
    const route = this.#part.read(message);
    if (route !== null && !this.#writer.rib.confirm(route)) differs(nameRoute(route));
  }

  end(differs: Differs): void {
    for (const route of this.#writer.rib.unconfirmed()) differs(nameRoute(route));
  }

  subject(message: MessageCursor): string | null {
    const route = this.#part.read(message);
    return route && nameRoute(route);
  }
}

/** Neighbours whose MAC may be used: no event tells that one is being asked for, or ages. */
export class AuditedNeighbors implements Audited {
  readonly table = "neighbors";
  readonly dumps = ["neighbors"] as const;
  readonly #writer: NetbaseWriter;
  readonly #part: NeighborsPart;
  /** MACs as text. */
  readonly #usable = new Map<string, string>();

  constructor(writer: NetbaseWriter, part: NeighborsPart) {
    this.#writer = writer;
    this.#part = part;
  }

  get entries(): number {
    return this.#writer.neighbors.size;
  }

  begin(): void {
    this.#usable.clear();
  }

  read(message: MessageCursor): void {
    const neighbor = this.#part.read(message);
    if (neighbor === null || !neighbor.hasMac || (neighbor.state & NUD_VALID) === 0) return;
    this.#usable.set(nameNeighbor(neighbor), macText(neighbor));
  }

  end(differs: Differs): void {
    this.#writer.neighbors.forEach((neighbor) => {
      if ((neighbor.state & NUD_VALID) === 0) return;
      const name = nameNeighbor(neighbor);
      if (this.#usable.get(name) === macText(neighbor)) this.#usable.delete(name);
      else differs(name);
    });
    for (const name of this.#usable.keys()) differs(name);
    this.#usable.clear();
  }

  subject(message: MessageCursor): string | null {
    const neighbor = this.#part.read(message);
    return neighbor && nameNeighbor(neighbor);
  }
}

function nameRoute({ table, destination, prefixLength }: Readonly<Route>): string {
  const prefix = formatPrefix(destination, prefixLength);
  return table === RT_TABLE_LOCAL ? `local route ${prefix}` : `route ${prefix}`;
}

function nameNeighbor({ ifindex, address }: { ifindex: number; address: number }): string {
  return `neighbour ${formatAddress(address)} on interface ${ifindex}`;
}

function macText({ macHead, macTail }: { macHead: number; macTail: number }): string {
  return `${macHead} ${macTail}`;
}
