// SPDX-License-Identifier: Apache-2.0
/**
 * Consistent hashing with Maglev's lookup table: if a backend is removed, its clients move to
 * others, and nearly all other clients stay. Each machine with the same backends builds the same
 * table. "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4.
 */

import type { Address } from "../../tiles/app/contract.ts";

/** Slots of the table: a prime, so that every step visits all of them. */
const SLOTS = 65_537;

/** A backend. Its preferred slots depend on its address, not on the order of backends. */
export interface Weighted {
  readonly address: Address;
  readonly port: number;
  /** Its share of the clients, relative to the others'; 0: none. */
  readonly weight: number;
}

/** A table from the hash of a client to a backend. `build` allocates, `find` does not. */
export class Maglev {
  readonly #slots = new Int16Array(SLOTS).fill(-1);

  /** Builds the table anew for these backends, at most 32,767. */
  build(backends: readonly Weighted[]): void {
    const slots = this.#slots.fill(-1);
    const most = backends.reduce((most, { weight }) => Math.max(most, weight), 0);
    const turns = backends.map(({ address, port, weight }, index) => ({
      ...{ index, credit: 0, share: most > 0 ? weight / most : 0 },
      next: mix(address, port, 0x2545f491) % SLOTS,
      step: 1 + mix(address, port, 0x9e3779b1) % (SLOTS - 1),
    })).filter(({ share }) => share > 0);
    if (turns.length === 0) return;
    for (let filled = 0; filled < SLOTS;) {
      for (const turn of turns) {
        // A backend with half of the largest weight takes a slot in every second round.
        turn.credit += turn.share;
        if (turn.credit < 1 || filled === SLOTS) continue;
        turn.credit--;
        while (slots[turn.next] >= 0) turn.next = (turn.next + turn.step) % SLOTS;
        slots[turn.next] = turn.index;
        filled++;
      }
    }
  }

  /** The index of the backend for a client with this hash, 32 bits; -1 if there is none. */
  find(hash: number): number {
    return this.#slots[(hash >>> 0) % SLOTS];
  }
}

/** A 32-bit hash of an address and a port, without a key, so that all machines agree. */
export function mix(address: Address, port: number, salt: number): number {
  let hash = address.hash(salt) ^ Math.imul(port + salt, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
