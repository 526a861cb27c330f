/**
 * The tables that an audit compares with a fresh dump, each with what counts as a difference in it. The
 * dump is only looked at: events go on being applied meanwhile.
 */

import type { InterfaceEntry } from "../../netbase/interfaces.ts";
import { NUD_VALID } from "../../netbase/neighbors.ts";
import type { NetbaseWriter } from "../../netbase/netbase.ts";
import { type Route, RT_TABLE_LOCAL } from "../../netbase/route.ts";
import { formatAddress, formatPrefix } from "./addresses.ts";
import * as nl from "./codec.ts";
import { enterInterface } from "./interfaces_part.ts";
import type { DumpKind, MessageCursor } from "./codec.ts";
import type { NeighborsPart } from "./neighbors_part.ts";
import type { RoutesPart } from "./routes_part.ts";

/** The tables, as the report names them. */
export type AuditTable = "interfaces" | "routes" | "neighbors";

/** Told of what differs: what it is, in words, which are the same for every difference in it. */
export type Differs = (what: string) => void;

/** One table. */
export interface Audited {
  readonly table: AuditTable;
  /** The types of messages that are about it. */
  readonly types: readonly number[];
  readonly dumps: readonly DumpKind[];
  /** How much the mirror has. */
  entries(): number;
  begin(): void;
  /** A message of a dump. */
  read(message: MessageCursor, differs: Differs): void;
  /** The dumps are over: looks for what they lacked. */
  end(differs: Differs): void;
  /** What an event is about, in the same words; null: none of ours. Not where it may be about more. */
  subject?(message: MessageCursor): string | null;
}

/** Links and the addresses on them. */
export function auditedInterfaces({ interfaces }: NetbaseWriter): Audited {
  const dumped = new Map<number, InterfaceEntry>();
  return {
    table: "interfaces",
    types: [nl.RTM_NEWLINK, nl.RTM_NEWADDR],
    dumps: ["links", "addresses"],
    entries: () => interfaces.size,
    begin: () => dumped.clear(),
    read: (message) => enterInterface(message, dumped),
    end(differs) {
      for (const { ifindex } of [...interfaces.all(), ...dumped.values()]) {
        const told = dumped.get(ifindex);
        if (told === undefined || !interfaces.has(told)) differs(`interface ${ifindex}`);
      }
    },
  };
}

/** Routes of `local` and `main`, by prefix. */
export function auditedRoutes({ rib }: NetbaseWriter, part: RoutesPart): Audited {
  return {
    table: "routes",
    types: part.types,
    dumps: part.dumps,
    entries: () => rib.size,
    begin: () => rib.beginSync(),
    read(message, differs) {
      const route = part.read(message);
      if (route !== null && !rib.confirm(route)) differs(nameRoute(route));
    },
    end(differs) {
      for (const route of rib.unconfirmed()) differs(nameRoute(route));
    },
    subject(message) {
      const route = part.read(message);
      return route && nameRoute(route);
    },
  };
}

/** Neighbours whose MAC may be used: no event tells that one is being asked for, or ages. */
export function auditedNeighbors({ neighbors }: NetbaseWriter, part: NeighborsPart): Audited {
  /** MACs as text. */
  const usable = new Map<string, string>();
  return {
    table: "neighbors",
    types: part.types,
    dumps: part.dumps,
    entries: () => neighbors.size,
    begin: () => usable.clear(),
    read(message) {
      const neighbor = part.read(message);
      if (neighbor === null || !neighbor.hasMac || (neighbor.state & NUD_VALID) === 0) return;
      usable.set(nameNeighbor(neighbor), macText(neighbor));
    },
    end(differs) {
      neighbors.forEach((neighbor) => {
        if ((neighbor.state & NUD_VALID) === 0) return;
        const name = nameNeighbor(neighbor);
        if (usable.get(name) === macText(neighbor)) usable.delete(name);
        else differs(name);
      });
      for (const name of usable.keys()) differs(name);
      usable.clear();
    },
    subject(message) {
      const neighbor = part.read(message);
      return neighbor && nameNeighbor(neighbor);
    },
  };
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
