/**
 * Answers what the status tile asks for that only this tile's heap has: all routes, an audit. Requests
 * come through the control region, one at a time; answers go into the snapshot region: a line of JSON
 * about the answer, and the lines that it consists of. A full table is given part by part, so that no
 * event waits for it.
 */

import type { View } from "../../ffi/view.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import type { Rib } from "../../netbase/rib.ts";
import type { Audit } from "./audit.ts";
import { interfaceNames, routeEntry } from "./entries.ts";
import { Ask, ControlReader } from "../runtime/control.ts";
import { MOST_ANSWER_BYTES, SnapshotWriter } from "../runtime/snapshot.ts";

/** Lines in one answer: a few milliseconds' work. */
const PART_LINES = 2048;
/** Characters of them, of which one takes three bytes at most, with something to spare for the head. */
const PART_CHARACTERS = Math.floor(MOST_ANSWER_BYTES / 3) - 128;

/** What is asked about. */
export interface SnapshotParts {
  /** The control region, read-only. */
  readonly control: View;
  /** The snapshot region, writable. */
  readonly snapshot: View;
  readonly rib: Rib;
  readonly reader: NetbaseReader;
  readonly audit: Audit;
}

/** What is said of a part of all routes; `next` asks for the following one. */
export interface RoutesPart {
  readonly next: readonly number[] | null;
  readonly count: number;
}

/** The netlink tile's end. */
export class Snapshots {
  readonly #parts: SnapshotParts;
  readonly #control: ControlReader;
  readonly #writer: SnapshotWriter;
  #answered: number;

  /** Begins with what is asked from now on. */
  constructor(parts: SnapshotParts) {
    this.#parts = parts;
    this.#control = new ControlReader(parts.control);
    this.#writer = new SnapshotWriter(parts.snapshot);
    this.#answered = this.#control.requestNumber;
  }

  /** Whether there is a request. */
  get pending(): boolean {
    return this.#control.requestNumber !== this.#answered;
  }

  /** Answers what was asked. How much there was to do. */
  turn(): number {
    if (!this.pending) return 0;
    const { number, kind, arguments: words } = this.#control.request;
    this.#answered = number;
    const answer = (head: object, lines = "") =>
      this.#writer.answer(number, `${JSON.stringify(head)}\n${lines}`);
    if (kind === Ask.routes) {
      const { lines, ...head } = this.#routes(words);
      answer(head, lines);
    } else if (kind === Ask.audit) this.#parts.audit.request(answer);
    return 1;
  }

  /** Routes from a prefix on, without the first `skipped` of it, and where the next part begins. */
  #routes([prefix, length, skipped]: readonly number[]): RoutesPart & { lines: string } {
    const nameOf = interfaceNames(this.#parts.reader.interfaces);
    let place = { prefix, length, count: 0 };
    let [lines, count] = ["", 0];
    for (const route of this.#parts.rib.routes({ prefix, length })) {
      const { destination, prefixLength } = route;
      if (destination !== place.prefix || prefixLength !== place.length) {
        place = { prefix: destination, length: prefixLength, count: 0 };
      }
      if (destination !== prefix || prefixLength !== length || place.count >= skipped) {
        const line = JSON.stringify(routeEntry(route, nameOf));
        const isFull = count === PART_LINES || lines.length + line.length > PART_CHARACTERS;
        if (isFull && count > 0) {
          return { lines, count, next: [place.prefix, place.length, place.count] };
        }
        lines += `${line}\n`;
        count++;
      }
      place.count++;
    }
    return { lines, count, next: null };
  }
}
