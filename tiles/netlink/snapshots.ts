/**
 * Answers what the status tile asks for that only this tile's heap has: routes with all their
 * candidates, an audit. Requests come through the control region, one at a time; answers go
 * into the snapshot region: a line of JSON about the answer, and the lines that it consists of. A full
 * table is given part by part, so that no event waits for it.
 */

import type { View } from "../../ffi/view.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import type { LookupOrder } from "../../netbase/rib_view.ts";
import type { Rib } from "../../netbase/rib.ts";
import type { Route } from "../../netbase/route.ts";
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

/** What is said of the routes that cover an address. */
export interface CoveringHead {
  readonly best: Route | null;
  readonly order: LookupOrder;
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
    const room = new Room();
    if (kind === Ask.routes) {
      answer({ next: this.#routes(room, words), count: room.count }, room.lines);
    } else if (kind === Ask.covering) answer(this.#covering(room, words[0]), room.lines);
    else if (kind === Ask.audit) this.#parts.audit.request(answer);
    return 1;
  }

  /** Routes from a prefix on, without the first `skipped` of it. Where the next part begins. */
  #routes(room: Room, [prefix, length, skipped]: readonly number[]): number[] | null {
    const nameOf = interfaceNames(this.#parts.reader.interfaces);
    let place = { prefix, length, count: 0 };
    for (const route of this.#parts.rib.routes({ prefix, length })) {
      const { destination, prefixLength } = route;
      if (destination !== place.prefix || prefixLength !== place.length) {
        place = { prefix: destination, length: prefixLength, count: 0 };
      }
      const wasTold = destination === prefix && prefixLength === length && place.count < skipped;
      if (!wasTold && !room.add(JSON.stringify(routeEntry(route, nameOf)))) {
        return [place.prefix, place.length, place.count];
      }
      place.count++;
    }
    return null;
  }

  /** The routes whose prefix `address` is in, as they are; which of them it takes, and by what order. */
  #covering(room: Room, address: number): CoveringHead {
    const { rib } = this.#parts;
    for (const route of rib.routesCovering(address)) room.add(JSON.stringify(route));
    return { best: rib.bestFor(address), order: rib.lookupOrder };
  }
}

/** The lines of an answer, as many as there is room for. */
class Room {
  lines = "";
  count = 0;

  /** False: it does not fit behind those that there are. */
  add(line: string): boolean {
    const isFull = this.count === PART_LINES || this.lines.length + line.length > PART_CHARACTERS;
    if (isFull && this.count > 0) return false;
    this.lines += `${line}\n`;
    this.count++;
    return true;
  }
}
