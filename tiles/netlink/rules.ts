/**
 * Policy rules (`ip rule`) and the order in which the kernel looks up its tables.
 *
 * As long as no rule of a namespace was ever changed, `local` and `main` are one trie, in which the
 * longest prefix wins. From then on, for good, all of `local` is looked up first. No message says
 * which it is. So a route is looked up for which the two orders differ, once there is one.
 *
 * Tegula supports the three rules that every namespace begins with: `local`, `main`, `default`. It
 * names every other rule once and ignores it.
 */

import { EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH } from "../../ffi/errno.ts";
import type { Rib } from "../../netbase/rib.ts";
import {
  emptyRoute,
  type Route,
  RT_TABLE_LOCAL,
  RTN_BLACKHOLE,
  RTN_PROHIBIT,
  RTN_THROW,
  RTN_UNREACHABLE,
  RTN_UNSPEC,
} from "../../netbase/route.ts";
import * as nl from "./codec.ts";
import type { DumpEnd, Dumper } from "./socket.ts";
import { type Notices, type Table, TableBit } from "./tables.ts";

/** Priority and table of the rules that every namespace begins with (fib_default_rules_init). */
const DEFAULT_RULES: { readonly [priority: number]: number } = {
  0: 255,
  32766: 254,
  32767: 253,
};

/** Checks that there are the default rules alone. */
export class RulesTable implements Table {
  readonly bit = TableBit.rules;
  readonly dumps = ["rules"] as const;
  readonly types = [nl.RTM_NEWRULE, nl.RTM_DELRULE];
  readonly optional = true;
  /** The number of rules that are not default ones, and of default ones that are missing. */
  custom = 0;
  readonly #lookupOrder: LookupOrder;
  readonly #notices: Notices;
  #found = 0;
  #defaults = 0;

  constructor(lookupOrder: LookupOrder, notices: Notices) {
    this.#lookupOrder = lookupOrder;
    this.#notices = notices;
  }

  event(message: nl.MessageCursor, replayed: boolean): number {
    if (nl.decodeRule(message) === null || replayed) return 0;
    this.#lookupOrder.rulesChanged();
    return TableBit.rules;
  }

  beginSync(): void {
    this.#found = this.#defaults = 0;
  }

  dumped(message: nl.MessageCursor): void {
    const rule = nl.decodeRule(message);
    if (rule === null) return;
    const { priority, table, action, selective } = rule;
    const looksUp = action === nl.FR_ACT_TO_TBL;
    if (!selective && looksUp && DEFAULT_RULES[priority] === table) {
      this.#defaults++;
      return;
    }
    this.#found++;
    const what = looksUp ? `looks into table ${table}` : `has action ${action}`;
    this.#notices.unsupportedThing(`policy rule ${priority}, which ${what}: Tegula ignores it`);
  }

  endSync(): void {
    const missing = Object.keys(DEFAULT_RULES).length - this.#defaults;
    // A kernel without policy routing has no rules at all, and one lookup order.
    this.custom = this.#found + (this.#defaults === 0 ? 0 : missing);
    if (this.custom > 0) this.#lookupOrder.rulesChanged();
  }
}

/** Prefixes of `local` to compare routes with; with more, every route counts as inside one. */
const MOST_WIDE_LOCALS = 16;

/** Finds out the kernel's lookup order, and sets it in the RIB. */
export class LookupOrder {
  readonly #rib: Rib;
  readonly #dumper: Dumper;
  readonly #reply = emptyRoute();
  /** The order is final. */
  #known = false;
  /** A route for which the order matters was seen, and is not in netbase yet; or is. */
  #noted = false;
  #changed = true;
  #requested = false;
  /** The address that was looked up last, so that it is not looked up again without a change. */
  #address = -1;
  /** Prefixes of `local` longer than one address: usually 127.0.0.0/8 alone. */
  readonly #wideLocals: { readonly destination: number; readonly mask: number }[] = [];
  /** Whether `local` has had a `throw`, which may lead to any route of `main` around it. */
  #throws = false;

  constructor(rib: Rib, dumper: Dumper) {
    this.#rib = rib;
    this.#dumper = dumper;
    rib.lookupOrder = "merged";
  }

  /** Whether the order is known, or does not matter. */
  get settled(): boolean {
    return this.#known || !this.#changed && !this.#requested;
  }

  /** A rule was changed at some time: `local` is looked up first. */
  rulesChanged(): void {
    this.#known = true;
    this.#rib.lookupOrder = "separate";
  }

  /** Notes a route of a message. */
  note(route: Readonly<Route>): void {
    if (!this.#noted) this.#noted = this.#matters(route);
  }

  /** What was noted is committed. */
  committed(): void {
    if (this.#noted) this.#changed = true;
    this.#noted = false;
  }

  /** Whether `route` is of `main` inside a prefix of `local`, or of `local` with room for such. */
  #matters({ table, type, destination, prefixLength }: Readonly<Route>): boolean {
    if (table === RT_TABLE_LOCAL) {
      if (type === RTN_THROW) this.#throws = true;
      if (prefixLength === 32) return type === RTN_THROW;
      const mask = prefixLength === 0 ? 0 : -1 << (32 - prefixLength);
      const isKnown = this.#wideLocals.some((wide) =>
        wide.destination === destination && wide.mask === mask
      );
      if (!isKnown && this.#wideLocals.length < MOST_WIDE_LOCALS) {
        this.#wideLocals.push({ destination, mask });
      }
      return true;
    }
    if (this.#throws || this.#wideLocals.length === MOST_WIDE_LOCALS) return true;
    for (const wide of this.#wideLocals) {
      if ((destination & wide.mask) >>> 0 === wide.destination) return true;
    }
    return false;
  }

  /** Makes the lookup when there is something to look up. Returns how much was done. */
  turn(): number {
    if (this.#known || !this.#changed || this.#dumper.busy) return 0;
    this.#changed = false;
    const address = this.#rib.ambiguousAddress();
    if (address < 0 || address === this.#address) return 0;
    this.#address = address;
    this.#reply.table = 0;
    this.#requested = this.#dumper.lookup({ address, fibMatch: true }, {
      reply: (message) => nl.decodeRoute(message, this.#reply),
      done: (end, errno) => this.#done(end, errno),
    });
    return 1;
  }

  #done(end: DumpEnd, errno: number): void {
    this.#requested = false;
    const isAnswer = end === "done" || end === "refused";
    if (!isAnswer || this.#known) return;
    const answer = end === "done" ? this.#reply.table : -errno;
    const orders = ["merged", "separate"] as const;
    const matching = orders.filter((order) =>
      answerOf(this.#rib.bestFor(this.#address, order)) === answer
    );
    // When neither matches, the routes have changed meanwhile.
    this.#known = matching.length === 1;
    if (this.#known) this.#rib.lookupOrder = matching[0];
    else this.#address = -1;
  }
}

/** The kernel's answer for a route: its table, or -errno. */
function answerOf(route: Route | null): number {
  switch (route?.type ?? RTN_UNSPEC) {
    case RTN_BLACKHOLE:
      return -EINVAL;
    case RTN_UNREACHABLE:
      return -EHOSTUNREACH;
    case RTN_PROHIBIT:
      return -EACCES;
    case RTN_THROW:
    case RTN_UNSPEC:
      return -ENETUNREACH;
    default:
      return route!.table;
  }
}
