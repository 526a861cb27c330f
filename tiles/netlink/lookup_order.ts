/**
 * Which of the two ways the kernel asks its tables. As long as nobody has touched a policy rule in
 * a namespace, `local` and `main` are one trie, in which the longest prefix wins; from then on, for
 * good, `local` is asked first as a whole. Nothing tells which it is but the answer to a question
 * whose outcome depends on it, so that question is put once there is an address to put it about.
 */

import { EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH } from "../../ffi/errno.ts";
import type { Rib } from "../../netbase/rib.ts";
import {
  emptyRoute,
  type Route,
  RTN_BLACKHOLE,
  RTN_PROHIBIT,
  RTN_THROW,
  RTN_UNREACHABLE,
  RTN_UNSPEC,
} from "../../netbase/route.ts";
import { decodeRoute } from "./codec.ts";
import type { DumpEnd, Dumper } from "./dump.ts";

/** Finds out the lookup order. */
export class LookupOrderQuestion {
  readonly #rib: Rib;
  readonly #dumper: Dumper;
  readonly #answer = emptyRoute();
  #known = false;
  #changed = true;
  #asking = false;
  /** The address that was asked about last; one that gave no answer is not asked about again. */
  #asked = -1;

  constructor(rib: Rib, dumper: Dumper) {
    this.#rib = rib;
    this.#dumper = dumper;
    rib.lookupOrder = "merged";
  }

  /** Whether lookups are known to go as the kernel's do. */
  get settled(): boolean {
    return this.#known || !this.#changed && !this.#asking;
  }

  /** Routes have changed: there may be something to ask now. */
  routesChanged(): void {
    this.#changed = true;
  }

  /**
   * Asks what there is to ask. `touched`: a rule was touched, so it is known. How much was done.
   */
  turn(touched: boolean): number {
    if (touched) this.#known = true;
    if (this.#known || !this.#changed || this.#dumper.busy) return 0;
    this.#changed = false;
    const address = this.#rib.ambiguousAddress();
    if (address < 0 || address === this.#asked) return 0;
    this.#asked = address;
    this.#answer.table = 0;
    this.#asking = this.#dumper.ask({ address, fibMatch: true }, {
      take: (message) => decodeRoute(message, this.#answer),
      done: (end) => this.#takeAnswer(end),
    });
    return 1;
  }

  #takeAnswer(end: DumpEnd): void {
    this.#asking = false;
    const isAnswer = end === "done" || end === "refused";
    if (!isAnswer || this.#known) return;
    const answer = end === "done" ? this.#answer.table : -this.#dumper.errno;
    const orders = ["merged", "separate"] as const;
    const fitting = orders.filter((order) =>
      answerOf(this.#rib.bestFor(this.#asked, order)) === answer
    );
    // Where neither does, something has changed meanwhile.
    this.#known = fitting.length === 1;
    if (this.#known) this.#rib.lookupOrder = fitting[0];
    else this.#asked = -1;
  }
}

/** What the kernel answers by a route: the table that it is of, or its refusal as an errno below 0. */
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
