/**
 * Answers what the status tile asks for that only this tile's heap has: routes with all their
 * candidates, an audit. Requests come through the control region, one at a time; answers go into the
 * snapshot region. A full table is given part by part, so that no event waits for it.
 *
 * @module
 */

import type { View } from "../../ffi/view.ts";
import type { Rib } from "../../netbase/rib.ts";
import type { Route } from "../../netbase/route.ts";
import type { Audit } from "./audit.ts";
import { Ask, ControlReader } from "../runtime/control.ts";
import { MOST_ANSWER_BYTES, SnapshotWriter } from "../runtime/snapshot.ts";

/** Routes in one part: a few milliseconds' work. */
const PART_ROUTES = 1024;
/** Room for what an answer has besides its routes. */
const SPARE_BYTES = 128;

/** What is asked about. */
export interface SnapshotParts {
  /** The control region, read-only. */
  readonly control: View;
  /** The snapshot region, writable. */
  readonly snapshot: View;
  readonly rib: Rib;
  readonly audit: Audit;
}

/** The netlink tile's end. */
export class Snapshots {
  readonly #control: ControlReader;
  readonly #writer: SnapshotWriter;
  readonly #rib: Rib;
  readonly #audit: Audit;
  #answered: number;

  /** Begins with what is asked from now on. */
  constructor({ control, snapshot, rib, audit }: SnapshotParts) {
    this.#control = new ControlReader(control);
    this.#writer = new SnapshotWriter(snapshot);
    this.#rib = rib;
    this.#audit = audit;
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
    const answer = (text: string) => this.#writer.answer(number, text);
    if (kind === Ask.routes) answer(this.#part(words));
    else if (kind === Ask.audit) this.#audit.request((report) => answer(JSON.stringify(report)));
    return 1;
  }

  /** Routes from a prefix on, without the first `skipped` of it, and where the next part begins. */
  #part([prefix, length, skipped]: readonly number[]): string {
    const routes = new RouteTexts();
    let place = { prefix, length, count: 0 };
    for (const route of this.#rib.routes({ prefix, length })) {
      const { destination, prefixLength } = route;
      if (destination !== place.prefix || prefixLength !== place.length) {
        place = { prefix: destination, length: prefixLength, count: 0 };
      }
      const wasTold = destination === prefix && prefixLength === length && place.count < skipped;
      if (!wasTold && !routes.add(route)) {
        return `{"routes":${routes},"next":[${place.prefix},${place.length},${place.count}]}`;
      }
      place.count++;
    }
    return `{"routes":${routes},"next":null}`;
  }
}

/** Routes in JSON, as many as a part may have. */
class RouteTexts {
  readonly #texts: string[] = [];
  #room = MOST_ANSWER_BYTES - SPARE_BYTES;

  /** False: it does not fit. */
  add(route: Route): boolean {
    const text = JSON.stringify(route);
    if (this.#texts.length === PART_ROUTES || text.length >= this.#room) return false;
    this.#room -= text.length + 1;
    this.#texts.push(text);
    return true;
  }

  toString(): string {
    return `[${this.#texts.join(",")}]`;
  }
}
