/**
 * Answers requests of the status tile for what only this tile's heap has: all routes, an audit.
 * Requests come through the control region, one at a time. Answers go to the snapshot region: a line
 * of JSON about the answer, then its lines. Routes are answered by the page, so that no event waits.
 */

import type { View } from "../../ffi/view.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import type { Rib } from "../../netbase/rib.ts";
import type { Audit } from "./audit.ts";
import { interfaceNames, routeEntry } from "./entries.ts";
import { Ask, ControlReader, MOST_ANSWER_BYTES, SnapshotWriter } from "../runtime/control.ts";

/** Lines of one page: a few milliseconds' work. */
const PAGE_LINES = 2048;
/** Characters of a page, up to three bytes each, with room for the head. */
const PAGE_CHARACTERS = Math.floor(MOST_ANSWER_BYTES / 3) - 128;

/** The head of a page of routes; `next` are the arguments of the request for the next page. */
export interface RoutesPage {
  readonly next: readonly number[] | null;
  readonly count: number;
}

/** The netlink tile's end of the snapshot region. */
export class Snapshots {
  readonly #control: ControlReader;
  readonly #writer: SnapshotWriter;
  readonly #rib: Rib;
  readonly #reader: NetbaseReader;
  readonly #audit: Audit;
  #answered: number;

  /** `control` is read-only. Answers requests that come from now on. */
  constructor(
    { control, snapshot, rib, reader, audit }: {
      readonly control: View;
      readonly snapshot: View;
      readonly rib: Rib;
      readonly reader: NetbaseReader;
      readonly audit: Audit;
    },
  ) {
    this.#control = new ControlReader(control);
    this.#writer = new SnapshotWriter(snapshot);
    this.#rib = rib;
    this.#reader = reader;
    this.#audit = audit;
    this.#answered = this.#control.requestNumber;
  }

  /** Whether a request is unanswered. */
  get pending(): boolean {
    return this.#control.requestNumber !== this.#answered;
  }

  /** Answers a request. Returns how much was done. */
  turn(): number {
    if (!this.pending) return 0;
    const { number, kind, arguments: words } = this.#control.request;
    this.#answered = number;
    const answer = (head: object, lines = "") =>
      this.#writer.answer(number, `${JSON.stringify(head)}\n${lines}`);
    if (kind === Ask.routes) {
      const { lines, ...head } = this.#routes(words);
      answer(head, lines);
    } else if (kind === Ask.audit) this.#audit.request(answer);
    return 1;
  }

  /** Routes from a prefix on, without the first `skipped` of it. */
  #routes([prefix, length, skipped]: readonly number[]): RoutesPage & { lines: string } {
    const nameOf = interfaceNames(this.#reader.interfaces);
    let at = { prefix, length, count: 0 };
    let [lines, count] = ["", 0];
    for (const route of this.#rib.routes({ prefix, length })) {
      const { destination, prefixLength } = route;
      if (destination !== at.prefix || prefixLength !== at.length) {
        at = { prefix: destination, length: prefixLength, count: 0 };
      }
      if (destination !== prefix || prefixLength !== length || at.count >= skipped) {
        const line = JSON.stringify(routeEntry(route, nameOf));
        const isFull = count === PAGE_LINES || lines.length + line.length > PAGE_CHARACTERS;
        if (isFull && count > 0) {
          return { lines, count, next: [at.prefix, at.length, at.count] };
        }
        lines += `${line}\n`;
        count++;
      }
      at.count++;
    }
    return { lines, count, next: null };
  }
}
