/**
 * Which datagrams an app leaves unanswered, so that two servers do not answer each other without end:
 * those from ports that no client uses, and those of senders that have reached their limit of answers a
 * second, where one is configured.
 */

import { hash } from "../../netbase/hash_table.ts";
import { APP } from "../runtime/counters.ts";
import type { PortRange } from "../runtime/ports.ts";
import type { AppContext, Datagrams } from "./contract.ts";

/** What is refused. Left out, it is as in a configuration that does not say. */
export interface RefusalSetup {
  /** Source ports that are not answered. */
  readonly refuseSources?: readonly PortRange[];
  /** Answers a second to one address, from one of its ports to one of ours; 0: no limit. */
  readonly mostPerSecond?: number;
}

/**
 * The well-known ports (RFC 6335 §6) but for those of DNS and NTP, which clients of these use too. Echo,
 * chargen, quotd and their like answer from the others.
 */
export const WELL_KNOWN_PORTS: readonly PortRange[] = [[0, 52], [54, 122], [124, 1023]];

/** Bits of a port. */
const [REFUSED, SERVED] = [1, 2];

/** Makes what an app asks about each datagram. `served`: every port that is served here. */
export function refusals(
  { refuseSources = WELL_KNOWN_PORTS, mostPerSecond = 0, served }: RefusalSetup & {
    readonly served: readonly number[];
  },
  counters: Float64Array,
): Pick<AppContext, "refuses" | "mayLoop"> {
  // A table and not a set, which takes three times as long to ask.
  const ports = new Uint8Array(65_536);
  for (const [first, last] of refuseSources) ports.fill(REFUSED, first, last + 1);
  for (const port of served) ports[port] |= SERVED;
  const recent = mostPerSecond > 0 ? new RecentAnswers(mostPerSecond) : null;

  const refused = (requests: Datagrams, bits: number): boolean => {
    if ((ports[requests.sourcePort] & bits) !== 0) {
      counters[APP.index.rx_drop_refused_source]++;
      return true;
    }
    if (recent === null || recent.take(requests)) return false;
    counters[APP.index.rx_drop_rate_limited]++;
    return true;
  };
  return {
    refuses: (requests) => refused(requests, REFUSED),
    mayLoop: (requests) => refused(requests, REFUSED | SERVED),
  };
}

/** Slots of the table, and words of a slot. */
const [SLOT_BITS, SLOT_WORDS] = [16, 4];
const Word = { address: 0, ports: 1, second: 2, count: 3 } as const;

/**
 * How many answers each sender has had this second. A sender's hash names its only slot; a new sender
 * replaces the one in it, so the table never grows. The hash is keyed, so nobody can choose addresses
 * and ports that replace a given sender.
 */
export class RecentAnswers {
  readonly #words = new Uint32Array(SLOT_WORDS << SLOT_BITS);
  readonly #key: Uint32Array;
  readonly #most: number;

  /** `key`: three random words, the hash's key. */
  constructor(most: number, key = crypto.getRandomValues(new Uint32Array(3))) {
    this.#key = key;
    this.#most = most;
  }

  /** Counts an answer to the datagram at hand. False when its sender has had all it can have. */
  take(
    requests: Pick<Datagrams, "sourceAddress" | "sourcePort" | "destinationPort" | "receivedAt">,
  ): boolean {
    const words = this.#words;
    const address = requests.sourceAddress >>> 0;
    const ports = ((requests.sourcePort << 16) | requests.destinationPort) >>> 0;
    const second = Math.floor(requests.receivedAt / 1e9) >>> 0;
    const key = this.#key;
    const hashed = hash(ports, address, key[0], key[1] | 1, key[2] | 1);
    const at = (hashed & ((1 << SLOT_BITS) - 1)) * SLOT_WORDS;
    // One net tile may be a burst behind another, so the previous second counts as this one.
    const behind = words[at + Word.second] - second;
    if (
      words[at + Word.address] !== address || words[at + Word.ports] !== ports ||
      behind < 0 || behind > 1
    ) {
      words[at + Word.address] = address;
      words[at + Word.ports] = ports;
      words[at + Word.second] = second;
      words[at + Word.count] = 0;
    }
    if (words[at + Word.count] >= this.#most) return false;
    words[at + Word.count]++;
    return true;
  }
}
