// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { fileURLToPath } from "node:url";
import packet from "dns-packet";
import * as dns from "../../../apps/dns/dns.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";
import fc from "../property.ts";

const ZONE = fileURLToPath(new URL("../../fixtures/app/example.zone", import.meta.url));
const RD = packet.RECURSION_DESIRED;

async function server(): Promise<AppHarness> {
  return await AppHarness.start(dns, { ports: [53], options: { zone: ZONE, rrl_ratelimit: 0 } });
}

/** A server of the zones of these texts: it reads them once. */
async function serving(...texts: string[]): Promise<AppHarness> {
  const zone = texts.map((text) => {
    const path = Deno.makeTempFileSync();
    Deno.writeTextFileSync(path, text);
    return path;
  });
  try {
    return await AppHarness.start(dns, { ports: [53], options: { zone, rrl_ratelimit: 0 } });
  } finally {
    zone.forEach((path) => Deno.removeSync(path));
  }
}

interface Asked {
  readonly flags?: number;
  /** Bytes that EDNS says; without, no EDNS. */
  readonly edns?: number;
}

/** Asks as a resolver does, and reads the answer with the same library in the other direction. */
function ask(harness: AppHarness, name: string, type: string, { flags = RD, edns }: Asked = {}) {
  const additionals = edns === undefined ? [] : [{ type: "OPT", name: ".", udpPayloadSize: edns }];
  const questions = [{ name, type }];
  const query = packet.encode({ type: "query", id: 0x1234, flags, questions, additionals });
  const [answered] = harness.ask({ payload: query });
  const reply = packet.decode(Buffer.from(answered.payload));
  assert.equal(reply.id, 0x1234);
  assert.ok(reply.flag_qr && !reply.flag_ra);
  assert.equal(reply.flag_rd, flags === RD);
  assert.equal(reply.questions[0].name, name);
  return { ...reply, bytes: answered.payload.length };
}

// deno-lint-ignore no-explicit-any -- dns-packet comes without types
function short(records: any[]): string[] {
  return records.filter(({ type }) => type !== "OPT").map(({ name, type, ttl, data }) =>
    `${name} ${ttl} ${type} ${typeof data === "string" ? data : JSON.stringify(data)}`
  );
}

Deno.test("every type is answered with what the zone file says", async () => {
  const harness = await server();
  const data = (name: string, type: string) => {
    const { answers, flag_aa, rcode } = ask(harness, name, type);
    assert.ok(flag_aa && rcode === "NOERROR");
    return answers.map((answer: { data: unknown }) => answer.data);
  };
  assert.deepEqual(data("web.example.org", "A"), ["198.18.0.80", "198.18.0.81"]);
  assert.deepEqual(data("mail.example.org", "AAAA"), ["2001:db8::25"]);
  assert.deepEqual(data("example.org", "NS"), ["ns1.example.org", "ns2.example.net"]);
  assert.deepEqual(data("example.org", "MX")[0], { preference: 10, exchange: "mail.example.org" });
  assert.deepEqual(data("example.org", "SOA"), [{
    mname: "ns1.example.org",
    rname: "host\\.master.example.org",
    serial: 2026010101,
    refresh: 86_400,
    retry: 7200,
    expire: 2_419_200,
    minimum: 300,
  }]);
  assert.deepEqual(data("_sip._udp.example.org", "SRV"), [
    { priority: 10, weight: 60, port: 5060, target: "sip.example.org" },
  ]);
  assert.deepEqual(data("80.0.18.198.in-addr.arpa.example.org", "PTR"), ["web.example.org"]);
  const [caa] = data("example.org", "CAA");
  assert.deepEqual([caa.flags, caa.tag, caa.value], [0, "issue", "ca.example.net"]);
  assert.deepEqual(
    data("example.org", "TXT")[0].map((text: Buffer) => text.toString()),
    ["v=spf1 -all", "semi;colon", "plain", '"quoted"', "café"],
  );
});

Deno.test("TTLs are those of the entry, else of $TTL; hosts that are named come with addresses", async () => {
  const harness = await server();
  const { answers, additionals } = ask(harness, "example.org", "MX");
  assert.deepEqual(short(answers), [
    'example.org 3600 MX {"preference":10,"exchange":"mail.example.org"}',
    'example.org 3600 MX {"preference":20,"exchange":"mail.example.net"}',
  ]);
  assert.deepEqual(short(additionals), [
    "mail.example.org 300 A 198.18.0.25",
    "mail.example.org 300 AAAA 2001:db8::25",
  ]);
});

Deno.test("what is not there is NXDOMAIN or NODATA, with the SOA's minimum for its time", async () => {
  const harness = await server();
  for (
    const [name, type, rcode] of [
      ["nothing.example.org", "A", "NXDOMAIN"],
      ["web.example.org", "AAAA", "NOERROR"],
      ["empty.between.example.org", "A", "NOERROR"],
      ["nothing.between.example.org", "A", "NXDOMAIN"],
    ]
  ) {
    const reply = ask(harness, name, type);
    assert.equal(reply.rcode, rcode, name);
    assert.ok(reply.flag_aa);
    assert.deepEqual(reply.answers, []);
    assert.match(short(reply.authorities)[0], /^example\.org 300 SOA /);
  }
});

Deno.test("aliases are followed inside the zone, and no further", async () => {
  const harness = await server();
  const chain = ask(harness, "chain.example.org", "A");
  assert.deepEqual(short(chain.answers), [
    "chain.example.org 3600 CNAME www.example.org",
    "www.example.org 3600 CNAME web.example.org",
    "web.example.org 3600 A 198.18.0.80",
    "web.example.org 3600 A 198.18.0.81",
  ]);
  assert.equal(ask(harness, "chain.example.org", "CNAME").answers.length, 1);
  assert.equal(ask(harness, "alias.example.org", "A").answers.length, 1);
  assert.equal(ask(harness, "broken.example.org", "A").rcode, "NXDOMAIN");
  assert.deepEqual(short(ask(harness, "loop.example.org", "A").answers), [
    "loop.example.org 3600 CNAME pool.example.org",
    "pool.example.org 3600 CNAME loop.example.org",
  ]);
});

Deno.test("a wildcard stands for what is not there, and for nothing that is", async () => {
  const harness = await server();
  const { answers } = ask(harness, "x.y.wild.example.org", "A");
  assert.deepEqual(short(answers), ["x.y.wild.example.org 3600 A 198.18.0.99"]);
  assert.equal(ask(harness, "x.wild.example.org", "AAAA").rcode, "NOERROR");
  assert.equal(ask(harness, "here.wild.example.org", "TXT").answers.length, 0);
  assert.equal(ask(harness, "x.here.wild.example.org", "A").rcode, "NXDOMAIN");
});

Deno.test("below a delegation we refer to who knows, with the addresses that we have", async () => {
  const harness = await server();
  for (const name of ["sub.example.org", "a.b.sub.example.org", "ns.sub.example.org"]) {
    const reply = ask(harness, name, "A");
    assert.ok(!reply.flag_aa);
    assert.deepEqual(reply.answers, []);
    assert.deepEqual(short(reply.authorities), [
      "sub.example.org 3600 NS ns.sub.example.org",
      "sub.example.org 3600 NS ns.elsewhere.example",
    ]);
    assert.deepEqual(short(reply.additionals), ["ns.sub.example.org 3600 A 198.18.0.53"]);
  }
});

Deno.test("EDNS is answered with EDNS, another version with BADVERS, none with none", async () => {
  const harness = await server();
  assert.equal(ask(harness, "web.example.org", "A").additionals.length, 0);
  const { additionals } = ask(harness, "web.example.org", "A", { edns: 4096 });
  assert.deepEqual([additionals[0].type, additionals[0].udpPayloadSize], ["OPT", 1232]);
  const opt = { type: "OPT", name: ".", udpPayloadSize: 1232, ednsVersion: 1 };
  const questions = [{ name: "web.example.org", type: "A" }];
  const [answered] = harness.ask({
    payload: packet.encode({ type: "query", questions, additionals: [opt] }),
  });
  const reply = packet.decode(Buffer.from(answered.payload));
  assert.equal(reply.additionals[0].extendedRcode, 1);
  assert.equal(reply.answers.length, 0);
});

Deno.test("an answer that does not fit is truncated to its question", async () => {
  const harness = await server();
  const small = ask(harness, "big.example.org", "TXT");
  assert.ok(small.flag_tc && small.answers.length === 0 && small.bytes < 512);
  const edns = ask(harness, "big.example.org", "TXT", { edns: 600 });
  assert.ok(edns.flag_tc && edns.additionals[0].type === "OPT");
  const large = ask(harness, "big.example.org", "TXT", { edns: 1232 });
  assert.ok(!large.flag_tc && large.answers.length === 5);
});

Deno.test("what is added unasked is left out before an answer is truncated", async () => {
  const hosts = Array.from(
    { length: 20 },
    (_, i) => `@ MX 10 host${i}\nhost${i} A 198.18.0.${i}\n`,
  );
  const harness = await serving(`$ORIGIN a.\n$TTL 60\n@ SOA ns x 1 1 1 1 1\n${hosts.join("")}`);
  const small = ask(harness, "a", "MX");
  assert.deepEqual([small.flag_tc, small.answers.length, small.additionals.length], [false, 20, 0]);
  assert.equal(ask(harness, "a", "MX", { edns: 1232 }).additionals.length, 21);
});

Deno.test("a name is written once, but in data that not everyone reads", async () => {
  const harness = await server();
  // Header 12, question 23; each record 10 and its names: the question's (2), web (6) or its place (2).
  assert.equal(ask(harness, "chain.example.org", "A").bytes, 12 + 23 + 18 + 18 + 16 + 16);
  // SOA: the zone is the end of the question (2); ns1 (6), host.master (14), five numbers (20).
  assert.equal(ask(harness, "no.example.org", "A").bytes, 12 + 20 + 12 + 6 + 14 + 20);
  // SRV: 6 bytes and its target in full (17). That is no place to point to from its address (6, 10, 4).
  const srv = ask(harness, "_sip._udp.example.org", "SRV");
  assert.equal(srv.bytes, 12 + 27 + 12 + 6 + 17 + 20);
});

Deno.test("other names are refused, other operations not implemented, nonsense is said to be so", async () => {
  const harness = await server();
  assert.equal(ask(harness, "example.com", "A").rcode, "REFUSED");
  assert.equal(ask(harness, "notexample.org", "A").rcode, "REFUSED");
  const status = ask(harness, "example.org", "A", { flags: 2 << 11 });
  assert.deepEqual([status.rcode, status.opcode], ["NOTIMP", "STATUS"]);
  const header = Uint8Array.of(0, 9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0);
  const [answered] = harness.ask({ payload: header });
  assert.deepEqual([...answered.payload], [0, 9, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(harness.ask({ payload: answered.payload }), [], "never to an answer");
});

Deno.test("names are compared whatever their letters, and come back in those of who asks", async () => {
  const harness = await server();
  const lower = (records: unknown) => JSON.stringify(records).toLowerCase();
  for (
    const [name, mixed] of [["www", "wWw"], ["no", "nO"], ["x.wild", "X.wILd"], ["sub", "SUB"]]
  ) {
    const first = ask(harness, `${name}.example.org`, "A");
    const second = ask(harness, `${mixed}.ExAmPlE.oRg`, "A");
    assert.equal(lower(second), lower({ ...first, flags: second.flags }), name);
  }
  const { answers } = ask(harness, "X.wILd.ExAmPlE.oRg", "A");
  assert.equal(answers[0].name, "X.wILd.ExAmPlE.oRg");
  assert.equal(harness.counters['dns.queries{type="A"}'], 9);
  assert.equal(harness.counters['dns.answers{rcode="NOERROR"}'], 7);
  assert.equal(harness.counters['dns.answers{rcode="NXDOMAIN"}'], 2);
});

Deno.test("whatever bytes come, the answer has their number and their question, or there is none", async () => {
  const harness = await server();
  const query = packet.encode({
    type: "query",
    questions: [{ name: "www.example.org", type: "A" }],
    additionals: [{ type: "OPT", name: ".", udpPayloadSize: 1232 }],
  });
  const mutation = fc.tuple(fc.nat(query.length - 1), fc.nat(255));
  const queries = fc.tuple(fc.array(mutation, { maxLength: 6 }), fc.nat(query.length))
    .map(([mutations, length]) => {
      const bytes = new Uint8Array(query);
      for (const [at, octet] of mutations) bytes[at] = octet;
      return bytes.slice(0, length);
    });
  fc.assert(
    fc.property(queries, (bytes) => {
      for (const { payload } of harness.ask({ payload: bytes })) {
        assert.deepEqual(payload.slice(0, 2), bytes.slice(0, 2));
        assert.ok((payload[2] & 0x80) !== 0 && payload.length <= 1232);
        packet.decode(Buffer.from(payload));
      }
      assert.equal(harness.counters.errors, 0, harness.logged.join("\n"));
    }),
    { numRuns: 2000 },
  );
});

/** Asks with a query as it is, and returns header and sections of the answer. */
function raw(harness: AppHarness, query: Uint8Array) {
  const [answered] = harness.ask({ payload: query });
  return packet.decode(Buffer.from(answered.payload));
}

Deno.test("EDNS that is broken or there twice is a format error, wherever it stands", async () => {
  const harness = await server();
  const questions = [{ name: "web.example.org", type: "A" }];
  const opt = { type: "OPT", name: ".", udpPayloadSize: 1232 };
  const other = { type: "A", name: "a.b", data: "198.18.0.1" };
  const encoded = (additionals: object[]) =>
    packet.encode({ type: "query", questions, additionals });
  for (
    const [additionals, rcode] of [
      [[other, opt], "NOERROR"],
      [[opt, other], "NOERROR"],
      [[opt, opt], "FORMERR"],
      [[opt, other, opt], "FORMERR"],
    ] as const
  ) {
    assert.equal(raw(harness, encoded([...additionals])).rcode, rcode, JSON.stringify(additionals));
  }
  // The type of the last record is 14 bytes from the end.
  const named = encoded([other]);
  named[named.length - 13] = 41;
  assert.equal(raw(harness, named).rcode, "FORMERR", "it is of a name that is not the root");
  assert.equal(raw(harness, encoded([opt]).subarray(0, -1)).rcode, "FORMERR", "it ends too early");
  const tiny = ask(harness, "example.org", "TXT", { edns: 0 });
  assert.ok(!tiny.flag_tc && tiny.answers.length === 1, "less than 512 bytes are 512");
});

Deno.test("what is no one question of class IN about data is answered with why not", async () => {
  const harness = await server();
  const name = "web.example.org";
  const encoded = (questions: object[], answers: object[] = []) =>
    packet.encode({ type: "query", questions, answers });
  assert.equal(raw(harness, encoded([])).rcode, "FORMERR");
  const twice = encoded([{ name, type: "A" }, { name, type: "AAAA" }]);
  assert.equal(raw(harness, twice).rcode, "FORMERR");
  const answered = encoded([{ name, type: "A" }], [{ name, type: "A", data: "198.18.0.1" }]);
  assert.equal(raw(harness, answered).rcode, "FORMERR");
  assert.equal(raw(harness, encoded([{ name, type: "A", class: "CH" }])).rcode, "REFUSED");
  assert.equal(ask(harness, "example.org", "AXFR").rcode, "NOTIMP");
  const query = encoded([{ name, type: "A" }]);
  const pointer = Uint8Array.of(...query.subarray(0, 12), 0xc0, 12, 0, 1, 0, 1);
  assert.equal(raw(harness, pointer).rcode, "FORMERR");
});

Deno.test("of all that a name has ANY gets one type, and of a delegation the way there", async () => {
  const harness = await server();
  const types = (name: string) =>
    ask(harness, name, "ANY").answers.map(({ type }: { type: string }) => type);
  assert.deepEqual(types("example.org"), ["SOA"]);
  assert.deepEqual(types("mail.example.org"), ["A"]);
  assert.deepEqual(types("x.wild.example.org"), ["A"]);
  assert.deepEqual(types("chain.example.org"), ["CNAME"]);
  assert.deepEqual(short(ask(harness, "sub.example.org", "ANY").authorities).length, 2);
});

Deno.test("a delegation's DS is what this side of it says", async () => {
  const harness = await server();
  const cut = ask(harness, "sub.example.org", "DS");
  assert.ok(cut.flag_aa && cut.rcode === "NOERROR");
  assert.equal(cut.answers[0].data.keyTag, 60485);
  assert.match(
    short(ask(harness, "sub2.example.org", "DS").authorities)[0],
    /^example\.org 300 SOA /,
  );
  assert.match(short(ask(harness, "x.sub.example.org", "DS").authorities)[0], / NS /);
});

Deno.test("the DO bit comes back, and an OPT record also if the question is malformed", async () => {
  const harness = await server();
  const flagsOf = (questions: object[], flags: number) => {
    const opt = { type: "OPT", name: ".", udpPayloadSize: 1232, flags };
    const reply = raw(harness, packet.encode({ type: "query", questions, additionals: [opt] }));
    return [reply.rcode, reply.additionals[0]?.flags];
  };
  const question = { name: "web.example.org", type: "A" };
  assert.deepEqual(flagsOf([question], packet.DNSSEC_OK), ["NOERROR", packet.DNSSEC_OK]);
  assert.deepEqual(flagsOf([question], 0x7fff), ["NOERROR", 0]);
  assert.deepEqual(flagsOf([], packet.DNSSEC_OK), ["FORMERR", packet.DNSSEC_OK]);
  assert.deepEqual(flagsOf([question, question], 0), ["FORMERR", 0]);
});

Deno.test("it says who it is only if it is asked, and told to", async () => {
  const told = { zone: ZONE, rrl_ratelimit: 0, nsid: "here", version: "1.0" };
  for (const options of [told, { zone: ZONE, rrl_ratelimit: 0 }]) {
    const harness = await AppHarness.start(dns, { ports: [53], options });
    const says = options === told;
    const opt = { type: "OPT", name: ".", options: [{ code: 3, data: Buffer.alloc(0) }] };
    const questions = [{ name: "web.example.org", type: "A" }];
    const reply = raw(harness, packet.encode({ type: "query", questions, additionals: [opt] }));
    const nsid = reply.additionals[0].options.map(({ data }: { data: Buffer }) => `${data}`);
    assert.deepEqual(nsid, says ? ["here"] : []);
    assert.deepEqual(
      ask(harness, "web.example.org", "A", { edns: 1232 }).additionals[0].options,
      [],
    );
    for (const name of ["version.bind", "VERSION.SERVER"]) {
      const chaos = [{ name, type: "TXT", class: "CH" }];
      const { rcode, answers } = raw(harness, packet.encode({ type: "query", questions: chaos }));
      assert.equal(rcode, says ? "NOERROR" : "REFUSED");
      assert.equal(says ? `${answers[0].data}` : "1.0", "1.0");
    }
  }
  const long = { zone: ZONE, nsid: "x".repeat(129) };
  await assert.rejects(AppHarness.start(dns, { ports: [53], options: long }), /options\.nsid/);
});

Deno.test("nothing that is not there is kept as such for longer than the SOA record", async () => {
  for (const [ttl, minimum] of [[60, 300], [300, 60]]) {
    const harness = await serving(`a. ${ttl} SOA ns.a. x.a. 1 1 1 1 ${minimum}\n`);
    for (const name of ["b.a", "a"]) {
      assert.match(short(ask(harness, name, "A").authorities)[0], /^a 60 SOA /);
    }
  }
});

Deno.test("a label's bytes are only its own: dots, zeros and spaces end no name", async () => {
  const harness = await serving(
    "a. 60 SOA ns.a. x.a. 1 1 1 1 1\nb.c.a. 60 A 198.18.0.1\n*.w.a. 60 A 198.18.0.2\n",
  );
  const encoded = (...labels: string[]) => {
    const name = labels.flatMap((label) => [label.length, ...Buffer.from(label, "latin1")]);
    const query = packet.encode({ type: "query", questions: [{ name: ".", type: "A" }] });
    return Uint8Array.of(...query.subarray(0, 12), ...name, ...query.subarray(12));
  };
  const asked = (...labels: string[]) => raw(harness, encoded(...labels));
  assert.equal(asked("b", "c", "a").answers.length, 1);
  assert.equal(asked("b.c", "a").rcode, "NXDOMAIN");
  assert.equal(asked("\0", "c", "a").rcode, "NXDOMAIN");
  assert.equal(asked("b", "c.a").rcode, "REFUSED");
  for (const label of ["\0", "b.c", " ", "\xff", "x".repeat(63)]) {
    assert.equal(asked(label, "w", "a").answers[0].data, "198.18.0.2", JSON.stringify(label));
  }
  const longest = ["x".repeat(61), ...["x", "x", "x"].map((x) => x.repeat(61)), "w", "a"];
  assert.equal(asked("x", ...longest).answers[0].data, "198.18.0.2", "255 bytes");
  assert.equal(asked("xx", ...longest).rcode, "FORMERR", "256 bytes");
});

Deno.test("an answer too large for anyone is not kept, and truncated for everyone", async () => {
  const hosts = Array.from({ length: 100 }, (_, i) => `h.a. 60 A 198.18.0.${i}\n`);
  const harness = await serving(`a. 60 SOA ns.a. x.a. 1 1 1 1 1\n${hosts.join("")}`);
  const reply = ask(harness, "h.a", "A", { edns: 4096 });
  assert.ok(reply.flag_tc && reply.flag_aa && reply.rcode === "NOERROR");
  assert.deepEqual([reply.answers.length, reply.additionals.length], [0, 1]);
});

Deno.test("the root zone is served, and of two zones the lower one", async () => {
  const harness = await serving(
    ". 60 SOA ns. x. 1 1 1 1 1\norg. 60 NS ns.org.\nns.org. 60 A 198.18.0.1\n*. 60 TXT x\n",
    "org. 60 SOA ns.org. x. 1 1 1 1 9\norg. 60 TXT low\n",
  );
  const of = (name: string, type: string) => ask(harness, name, type);
  assert.match(short(of("org", "A").authorities)[0], /^org 9 SOA/);
  assert.match(short(of("org", "DS").authorities)[0], /^\. 1 SOA/);
  assert.equal(of("ns.org", "A").rcode, "NXDOMAIN");
  assert.equal(of("com", "TXT").answers[0].name, "com");
  assert.equal(of("com", "A").rcode, "NOERROR");
  await assert.rejects(serving("a. 1 SOA b. c. 1 1 1 1 1", "a. 1 SOA b. c. 1 1 1 1 1"), /zone a/);
});

Deno.test("of thousands of names each has its own answers", async () => {
  const records = Array.from(
    { length: 5000 },
    (_, i) => `h${i}.a. 60 A 198.18.${i >> 8}.${i & 0xff}\nc${i}.a. 60 CNAME h${i}.a.\n`,
  );
  const harness = await serving(`a. 60 SOA ns.a. x.a. 1 1 1 1 1\n${records.join("")}`);
  for (let i = 0; i < records.length; i++) {
    assert.deepEqual(short(ask(harness, `h${i}.a`, "A").answers), [
      `h${i}.a 60 A 198.18.${i >> 8}.${i & 0xff}`,
    ]);
    assert.equal(ask(harness, `c${i}.a`, "A").answers.length, 2);
    assert.equal(ask(harness, `c${i}.a`, "TXT").answers.length, 1);
    assert.equal(ask(harness, `h${i}.h${i}.a`, "A").rcode, "NXDOMAIN");
  }
});
