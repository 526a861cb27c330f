// SPDX-License-Identifier: Apache-2.0
/**
 * The zone and the questions: a zone of many hosts, and questions about them as a resolver sends them, with EDNS.
 * They are the same in every run.
 */

import packet from "dns-packet";
import { Random } from "./routes.ts";

/** Name of the zone. */
export const ORIGIN = "example.org";

const HOSTS = 10_000;
const QUESTIONS = 16_384;
/** Too many names for a cache of answers. */
const MADE_UP = 65_536;
/** Types of questions about hosts, and how many of a hundred. The others are about hosts that do not exist. */
const SHARES = [["A", 60], ["AAAA", 20], ["MX", 5], ["TXT", 5]] as const;
/** The UDP size that a resolver advertises. */
const PAYLOAD_BYTES = 1232;

export interface Question {
  readonly name: string;
  readonly type: string;
}

export function zoneFile(): string {
  const lines = [
    `$ORIGIN ${ORIGIN}.`,
    "$TTL 3600",
    "@ IN SOA ns1 hostmaster 2026010101 86400 7200 2419200 300",
    "@ IN NS ns1",
    "ns1 IN A 198.18.0.2",
    "*.any IN A 198.18.0.99",
  ];
  for (let i = 0; i < HOSTS; i++) {
    const [high, low] = [i >>> 8, i & 0xff];
    lines.push(
      `host${i} IN A 198.19.${high}.${low}`,
      `host${i} IN AAAA 2001:db8::${i.toString(16)}`,
      `host${i} IN MX 10 host${(i + 1) % HOSTS}`,
      `host${i} IN TXT "v=spf1 -all"`,
    );
  }
  return lines.join("\n") + "\n";
}

/** The questions, in the order in which they are repeated. */
export function questions(): Question[] {
  const random = new Random(1);
  return Array.from({ length: QUESTIONS }, () => {
    const name = `host${random.below(HOSTS)}.${ORIGIN}`;
    let share = random.below(100);
    for (const [type, of] of SHARES) {
      if (share < of) return { name, type };
      share -= of;
    }
    return { name: share < 5 ? `no${name}` : `${name.split(".")[0]}.any.${ORIGIN}`, type: "A" };
  });
}

/** Questions about names below `name` that do not exist, each about a new one. */
export function madeUpQuestions(name: string): Question[] {
  const random = new Random(2);
  return Array.from({ length: MADE_UP }, (_, i) => {
    const label = `${i.toString(36)}-${random.below(2 ** 31).toString(36)}`;
    return { name: `${label}.${name}`, type: "A" };
  });
}

/** The questions for the load generator: queries, each preceded by its length. */
export function queryFile(all: readonly Question[]): Uint8Array {
  const opt = { type: "OPT", name: ".", udpPayloadSize: PAYLOAD_BYTES };
  const queries = all.map((question) =>
    packet.streamEncode({ type: "query", id: 0, questions: [question], additionals: [opt] })
  );
  const file = new Uint8Array(queries.reduce((sum, { length }) => sum + length, 0));
  queries.reduce((at, query) => (file.set(query, at), at + query.length), 0);
  return file;
}
