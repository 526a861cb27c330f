// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import packet from "dns-packet";
import * as dns from "../../../apps/dns/dns.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";
import { oracle, type OracleRecord, type OracleZone } from "./dns_oracle.ts";
import fc from "../property.ts";

const LABELS = ["a", "b", "c", "*"];
const PAYLOAD_BYTES = 1232;

/** Serves zones until `body` is through. */
async function serving(
  texts: readonly string[],
  body: (harness: AppHarness) => void,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const zone = texts.map((text, i) => {
      Deno.writeTextFileSync(`${folder}/${i}`, text);
      return `${folder}/${i}`;
    });
    body(await AppHarness.start(dns, { ports: [53], options: { zone } }));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A query, its name as labels, of which dns-packet could not write all. */
function query(labels: readonly string[], type: string, payloadBytes: number | null): Uint8Array {
  const name = labels.flatMap((label) => [label.length, ...Buffer.from(label, "latin1")]);
  const questions = [{ name: ".", type }];
  const additionals = payloadBytes === null
    ? []
    : [{ type: "OPT", name: ".", udpPayloadSize: payloadBytes }];
  const bytes = packet.encode({ type: "query", id: 0x1234, questions, additionals });
  return Uint8Array.of(...bytes.subarray(0, 12), ...name, ...bytes.subarray(12));
}

// deno-lint-ignore no-explicit-any -- dns-packet comes without types
type Records = any[];

/**
 * Records as the oracle shows them. Names are in lower case: one that ends as the question does points
 * there, and so has the letters of who asked, as NSD and Knot answer, too (RFC 4343: they are the same).
 */
function shown(records: Records): string[] {
  return records.filter(({ type }) => type !== "OPT").map(({ name, ttl, type, data }) => {
    const said: Record<string, () => string> = {
      TXT: () => `"${data[0]}"`,
      MX: () => `${data.preference} ${data.exchange}.`,
      SOA: () => `${data.mname}. ${data.rname}. 1 1 1 1 ${data.minimum}`,
      A: () => data,
    };
    const owner = `${name === "." ? "" : name}`.toLowerCase();
    return `${owner} ${ttl} ${type} ${(said[type] ?? (() => `${data}.`))().toLowerCase()}`;
  }).sort();
}

const label = fc.constantFrom(...LABELS);
const name = (origin: readonly string[]) =>
  fc.array(label, { maxLength: 3 }).map((labels) => [...labels, ...origin]);
const target = fc.oneof(name(["z"]), name(["a", "z"]), fc.constant<string[]>(["out", "side"]));
const ttl = fc.integer({ min: 0, max: 9 });

/** Records of one owner: an alias, or what else there can be. */
function recordsOf(origin: readonly string[]): fc.Arbitrary<OracleRecord[]> {
  const fields = fc.record({ ttl, target, number: fc.integer({ min: 1, max: 3 }) });
  const made = (type: string, { ttl, target, number }: {
    ttl: number;
    target: string[];
    number: number;
  }): Omit<OracleRecord, "owner"> => {
    const host = `${target.join(".")}.`;
    const data: Record<string, string> = {
      A: `198.18.0.${number}`,
      TXT: `"${number}"`,
      MX: `${number} ${host}`,
    };
    return { type, ttl, target, data: data[type] ?? host };
  };
  const others = fc.array(
    fc.tuple(fc.constantFrom("A", "A", "TXT", "MX", "NS"), fields),
    { minLength: 1, maxLength: 4 },
  );
  const alias = fc.tuple(fc.constant("CNAME"), fields).map((each) => [each]);
  return fc.tuple(name(origin), fc.oneof({ weight: 3, arbitrary: others }, alias)).map(
    ([owner, all]) =>
      all.map(([type, fields]) => ({ owner, ...made(type, fields) }))
        // A wildcard that is delegated is not defined: RFC 4592 §4.2.
        .filter(({ type }) => type !== "NS" || owner[0] !== "*"),
  );
}

function zone(origin: readonly string[]): fc.Arbitrary<OracleZone> {
  const owners = fc.array(recordsOf(origin), { maxLength: 12 });
  return fc.tuple(owners, ttl, ttl).map(([owners, soaTtl, minimum]) => {
    const host = `${["ns", ...origin].join(".")}.`;
    const data = `${host} ${host} 1 1 1 1 ${minimum}`;
    const records: OracleRecord[] = [{ owner: origin, type: "SOA", ttl: soaTtl, data }];
    for (const all of owners) {
      // Of an owner that comes twice the first entry counts: an alias has nothing beside it.
      const isThere = all.length > 0 &&
        records.some(({ owner }) => owner.join(".") === all[0].owner.join("."));
      if (!isThere) records.push(...all);
    }
    return { origin, minimum, records };
  });
}

function textOf({ records }: OracleZone): string {
  return records.map(({ owner, ttl, type, data }) => `${owner.join(".")}. ${ttl} ${type} ${data}\n`)
    .join("");
}

Deno.test("zones of any shape are answered as the slow and obvious way answers them", async () => {
  const zones = fc.tuple(
    ...[["z"], ["a", "z"], ["c", "b", "z"], []].map((origin) => fc.option(zone(origin))),
  ).map((zones) => zones.filter((zone) => zone !== null));
  const asked = fc.record({
    labels: fc.tuple(
      fc.array(fc.constantFrom(...LABELS, "A", "x", "\0", "a.z", "\n"), { maxLength: 5 }),
      fc.constantFrom(["z"], ["Z"], ["a", "z"], ["b", "Z"], ["zz"], []),
    ).map((parts) => parts.flat()),
    type: fc.constantFrom("A", "TXT", "MX", "NS", "CNAME", "SOA", "AAAA", "ANY", "DS"),
  });
  await fc.assert(
    fc.asyncProperty(
      zones,
      fc.array(asked, { minLength: 40, maxLength: 40 }),
      async (zones, all) => {
        await serving(zones.map(textOf), (harness) => {
          for (const { labels, type } of all) {
            const payload = query(labels, type, PAYLOAD_BYTES);
            const [answered] = harness.ask({ payload });
            const questionEnd = payload.length - 11;
            assert.deepEqual(
              answered.payload.subarray(12, questionEnd),
              payload.subarray(12, questionEnd),
              "the question comes back letter by letter",
            );
            const reply = packet.decode(Buffer.from(answered.payload));
            const { rcode, flag_aa: aa } = reply;
            const lower = labels.map((label) => label.toLowerCase());
            const answers = shown(reply.answers);
            // A label with a dot in it looks like two here.
            const isPlain = !labels.includes("a.z");
            assert.deepEqual(
              {
                rcode,
                aa,
                answers: isPlain ? answers : [...new Set(answers)],
                authorities: shown(reply.authorities),
                additionals: shown(reply.additionals),
              },
              oracle(zones, lower, type),
              `${JSON.stringify(labels)} ${type}`,
            );
          }
        });
      },
    ),
    { numRuns: 300 },
  );
});
