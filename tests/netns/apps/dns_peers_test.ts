// SPDX-License-Identifier: Apache-2.0
/**
 * The dns app beside NSD and Knot with the same zone: the same questions, and the same answers but for the
 * differences that are listed here, part by part, with their reason.
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createSocket } from "node:dgram";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import packet from "dns-packet";
import * as dns from "../../../apps/dns/dns.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";

const ZONE = fileURLToPath(new URL("../../fixtures/app/example.zone", import.meta.url));
const [NSID, VERSION] = ["here", "of the test"];

/** How long a server may take to start, and to answer. A malformed packet may have no answer. */
const [START_MILLIS, ANSWER_MILLIS, SILENCE_MILLIS] = [20_000, 5000, 150];

/** A name server on a port of loopback. */
class Server implements AsyncDisposable {
  readonly #socket = createSocket("udp4");
  readonly #child: Deno.ChildProcess;
  readonly #port: number;
  /** Who waits for an answer, by the number of the query. */
  readonly #waiting = new Map<number, (answer: Uint8Array) => void>();

  constructor([program, ...args]: readonly string[], port: number) {
    this.#child = new Deno.Command(program, { args, stdout: "null", stderr: "null" }).spawn();
    this.#port = port;
    this.#socket.on("message", (answer) => this.#waiting.get(answer.readUInt16BE(0))?.(answer));
  }

  /** The answer to a query; null if none comes in time. */
  async ask(query: Uint8Array, millis = ANSWER_MILLIS): Promise<Uint8Array | null> {
    const { promise, resolve } = Promise.withResolvers<Uint8Array | null>();
    const timer = setTimeout(() => resolve(null), millis);
    const number = query[0] << 8 | query[1];
    this.#waiting.set(number, resolve);
    this.#socket.send(query, this.#port, "127.0.0.1");
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(number);
    }
  }

  /** Waits until it answers. */
  async started(): Promise<this> {
    const query = encoded("example.org", "SOA", EDNS[0]);
    for (const end = performance.now() + START_MILLIS; performance.now() < end;) {
      if (await this.ask(query, SILENCE_MILLIS) !== null) return this;
    }
    throw new Error("the name server did not start");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    this.#socket.close();
  }
}

async function freePort(): Promise<number> {
  const socket = createSocket("udp4");
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.bind(0, "127.0.0.1", resolve);
  await promise;
  const { port } = socket.address();
  socket.close();
  return port;
}

async function nsd(folder: string): Promise<Server> {
  const port = await freePort();
  const config = `server:
  ip-address: 127.0.0.1@${port}
  server-count: 1
  username: ""
  zonesdir: "${folder}"
  pidfile: "${folder}/nsd.pid"
  xfrdfile: "${folder}/nsd.xfrd"
  zonelistfile: "${folder}/nsd.list"
  xfrdir: "${folder}"
  rrl-ratelimit: 0
  minimal-responses: yes
  nsid: "ascii_${NSID}"
  version: "${VERSION}"
remote-control:
  control-enable: no
zone:
  name: example.org
  zonefile: ${ZONE}
`;
  await Deno.writeTextFile(`${folder}/nsd.conf`, config);
  return await new Server(["nsd", "-d", "-c", `${folder}/nsd.conf`], port).started();
}

async function knot(folder: string): Promise<Server> {
  const port = await freePort();
  const config = `server:
  rundir: ${folder}
  listen: 127.0.0.1@${port}
  udp-workers: 1
  nsid: "${NSID}"
  version: "${VERSION}"
database:
  storage: ${folder}
zone:
- domain: example.org
  file: ${ZONE}
`;
  await Deno.writeTextFile(`${folder}/knot.conf`, config);
  return await new Server(["knotd", "-c", `${folder}/knot.conf`], port).started();
}

interface Edns {
  readonly size: number;
  readonly dnssecOk: boolean;
}
/** No EDNS, EDNS, and EDNS with the DNSSEC OK bit. */
const EDNS: readonly (Edns | null)[] = [
  null,
  { size: 1232, dnssecOk: false },
  { size: 4096, dnssecOk: true },
];

const NAMES = [
  ...[
    "example.org",
    "EXAMPLE.org",
    "ns1",
    "mail",
    "www",
    "web",
    "alias",
    "chain",
    "broken",
    "loop",
  ],
  ...["pool", "_sip._udp", "_udp", "sip", "wild", "x.wild", "x.y.wild", "*.wild", "here.wild"],
  ...["x.here.wild", "deep.empty.between", "empty.between", "between", "x.between", "sub", "x.sub"],
  ...["ns.sub", "a.b.c.sub", "sub2", "ns.sub2", "svc", "_dns.ns1", "_443._tcp.www", "_tcp.www"],
  ...["ssh", "new", "big", "80.0.18.198.in-addr.arpa", "in-addr.arpa", "nowhere", "a.nowhere"],
  ...["x".repeat(63), `${"y".repeat(60)}.${"z".repeat(60)}`, "w\\000b"],
].map((name) => /example/i.test(name) ? name : `${name}.example.org`).concat(
  ["org", "example.com", "notexample.org"],
);

const TYPES = [
  ...["A", "NS", "CNAME", "SOA", "PTR", "MX", "TXT", "AAAA", "SRV", "CAA", "DS", "SSHFP", "TLSA"],
  ...["UNKNOWN_64", "UNKNOWN_65", "UNKNOWN_62347", "HINFO", "NAPTR", "DNSKEY", "SPF"],
];

function encoded(name: string, type: string, edns: Edns | null, more: object = {}): Uint8Array {
  const opt = edns && {
    ...{ type: "OPT", name: ".", udpPayloadSize: edns.size, ...more },
    flags: edns.dnssecOk ? packet.DNSSEC_OK : 0,
  };
  const questions = [{ name, type }];
  const id = Math.floor(Math.random() * 0x10000);
  return packet.encode({ type: "query", id, questions, additionals: opt === null ? [] : [opt] });
}

/** A packet by its parts: 16-bit words of the header after the number, then bytes. */
function packetOf(header: readonly number[], ...parts: readonly (readonly number[])[]): Uint8Array {
  const words = header.flatMap((word) => [word >>> 8, word & 0xff]);
  const id = [Math.floor(Math.random() * 256), Math.floor(Math.random() * 256)];
  return Uint8Array.from([...id, ...words, ...parts.flatMap((part) => [...part])]);
}

function question(name: string, type: number, of = 1): number[] {
  return [...packet.name.encode(name), type >>> 8, type & 0xff, of >>> 8, of & 0xff];
}

/** An OPT record. */
function opt(
  { size = 1232, version = 0, flags = 0, options = [], length = options.length, owner = [0] }: {
    size?: number;
    version?: number;
    flags?: number;
    options?: readonly number[];
    /** What it says of the options' length. */
    length?: number;
    owner?: readonly number[];
  } = {},
): number[] {
  const fixed = [size >>> 8, size & 0xff, 0, version, flags >>> 8, flags & 0xff];
  return [...owner, 0, 41, ...fixed, length >>> 8, length & 0xff, ...options];
}

const WEB = question("web.example.org", 1);
const RECORD = [
  ...packet.name.encode("web.example.org"),
  0,
  1,
  0,
  1,
  0,
  0,
  0,
  1,
  0,
  4,
  198,
  18,
  0,
  1,
];

/** Packets that are no plain question, by what is particular about them. */
const PACKETS: Record<string, Uint8Array> = {
  ...Object.fromEntries(
    [0x0100, 0x0200, 0x0400, 0x0080, 0x0040, 0x0020, 0x0010, 0x0005, 0x8000, 0x07ff].map((flags) =>
      [`flags ${flags.toString(16)}`, packetOf([flags, 1, 0, 0, 0], WEB)] as const
    ),
  ),
  ...Object.fromEntries(
    Array.from({ length: 15 }, (_, i) => i + 1).map((opcode) =>
      [`opcode ${opcode}`, packetOf([opcode << 11, 1, 0, 0, 0], WEB)] as const
    ),
  ),
  ...Object.fromEntries(
    [0, 2, 3, 4, 254, 255, 256, 65535].map((of) =>
      [`class ${of}`, packetOf([0, 1, 0, 0, 0], question("web.example.org", 1, of))] as const
    ),
  ),
  ...Object.fromEntries(
    [0, 41, 128, 249, 250, 251, 252, 253, 254, 255, 65535].map((type) =>
      [`type ${type}`, packetOf([0, 1, 0, 0, 0], question("web.example.org", type))] as const
    ),
  ),
  ...Object.fromEntries(
    ["version.bind", "VERSION.server", "id.server", "hostname.bind", "version"].map((name) =>
      [`CH TXT ${name}`, packetOf([0, 1, 0, 0, 0], question(name, 16, 3))] as const
    ),
  ),
  "CH A version.bind": packetOf([0, 1, 0, 0, 0], question("version.bind", 1, 3)),
  "CH ANY version.bind": packetOf([0, 1, 0, 0, 0], question("version.bind", 255, 3)),
  "no bytes": new Uint8Array(),
  "half a header": Uint8Array.of(1, 2, 0, 0, 0, 1),
  "no question": packetOf([0, 0, 0, 0, 0]),
  "no question, but bytes": packetOf([0, 0, 0, 0, 0], WEB),
  "no question, but OPT": packetOf([0, 0, 0, 0, 1], opt()),
  "two questions": packetOf([0, 2, 0, 0, 0], WEB, WEB),
  "two questions and OPT": packetOf([0, 2, 0, 0, 1], WEB, WEB, opt()),
  "a question too few": packetOf([0, 2, 0, 0, 0], WEB),
  "an answer": packetOf([0, 1, 1, 0, 0], WEB, RECORD),
  "an authority": packetOf([0, 1, 0, 1, 0], WEB, RECORD),
  "an additional record": packetOf([0, 1, 0, 0, 1], WEB, RECORD),
  "an additional record too few": packetOf([0, 1, 0, 0, 1], WEB),
  "half an additional record": packetOf([0, 1, 0, 0, 1], WEB, RECORD.slice(0, -5)),
  "bytes at the end": packetOf([0, 1, 0, 0, 0], WEB, [1, 2, 3]),
  "half a question": packetOf([0, 1, 0, 0, 0], WEB.slice(0, -3)),
  "half a name": packetOf([0, 1, 0, 0, 0], WEB.slice(0, 6)),
  "a pointer as name": packetOf([0, 1, 0, 0, 0], [0xc0, 12, 0, 1, 0, 1]),
  "a pointer in the name": packetOf([0, 1, 0, 0, 0], [3, 119, 119, 119, 0xc0, 12, 0, 1, 0, 1]),
  "a label of 64": packetOf([0, 1, 0, 0, 0], [64, ...new Uint8Array(64).fill(97), 0, 0, 1, 0, 1]),
  "a label of type 2": packetOf([0, 1, 0, 0, 0], [0x80, 97, 0, 0, 1, 0, 1]),
  "a name of 255": packetOf(
    [0, 1, 0, 0, 0],
    ...Array.from({ length: 127 }, () => [1, 97]),
    [0, 0, 1, 0, 1],
  ),
  "a name of 257": packetOf(
    [0, 1, 0, 0, 0],
    ...Array.from({ length: 128 }, () => [1, 97]),
    [0, 0, 1, 0, 1],
  ),
  "the root": packetOf([0, 1, 0, 0, 0], [0, 0, 2, 0, 1]),
  "OPT": packetOf([0, 1, 0, 0, 1], WEB, opt()),
  "OPT with DO": packetOf([0, 1, 0, 0, 1], WEB, opt({ flags: 0x8000 })),
  "OPT with other flags": packetOf([0, 1, 0, 0, 1], WEB, opt({ flags: 0x7fff })),
  "OPT of size 0": packetOf([0, 1, 0, 0, 1], WEB, opt({ size: 0 })),
  "OPT of version 1": packetOf([0, 1, 0, 0, 1], WEB, opt({ version: 1 })),
  "OPT of version 255 with DO": packetOf(
    [0, 1, 0, 0, 1],
    WEB,
    opt({ version: 255, flags: 0x8000 }),
  ),
  "OPT with NSID": packetOf([0, 1, 0, 0, 1], WEB, opt({ options: [0, 3, 0, 0] })),
  "OPT with an unknown option": packetOf([0, 1, 0, 0, 1], WEB, opt({ options: [9, 9, 0, 1, 7] })),
  "OPT with two options": packetOf(
    [0, 1, 0, 0, 1],
    WEB,
    opt({ options: [9, 9, 0, 0, 0, 3, 0, 0] }),
  ),
  "OPT with an option too long": packetOf([0, 1, 0, 0, 1], WEB, opt({ options: [0, 3, 0, 9, 1] })),
  "OPT with half an option": packetOf([0, 1, 0, 0, 1], WEB, opt({ options: [0, 3] })),
  "OPT longer than the packet": packetOf([0, 1, 0, 0, 1], WEB, opt({ length: 8 })),
  "OPT with a name": packetOf([0, 1, 0, 0, 1], WEB, opt({ owner: [1, 97, 0] })),
  "OPT twice": packetOf([0, 1, 0, 0, 2], WEB, opt(), opt()),
  "OPT before another record": packetOf([0, 1, 0, 0, 2], WEB, opt(), RECORD),
  "OPT after another record": packetOf([0, 1, 0, 0, 2], WEB, RECORD, opt()),
  "OPT as authority": packetOf([0, 1, 0, 1, 0], WEB, opt()),
  "OPT and bytes at the end": packetOf([0, 1, 0, 0, 1], WEB, opt(), [0, 0]),
  "OPT and opcode 2": packetOf([2 << 11, 1, 0, 0, 1], WEB, opt()),
  "OPT and class CH": packetOf([0, 1, 0, 0, 1], question("web.example.org", 1, 3), opt()),
  "OPT and another's name": packetOf(
    [0, 1, 0, 0, 1],
    question("example.com", 1),
    opt({ flags: 0x8000 }),
  ),
  "OPT and a broken name": packetOf(
    [0, 1, 0, 0, 1],
    [3, 119, 119, 119, 0xc0, 12, 0, 1, 0, 1],
    opt(),
  ),
};

/**
 * What a client learns from an answer, in parts. The order of records says nothing, nor does the case of
 * names. Answers begin with `=`, authorities with `@`, additional records with `+`.
 */
function meaning(answer: Uint8Array | null): string[] {
  if (answer === null) return ["no answer"];
  const message = packet.decode(Buffer.from(answer));
  // deno-lint-ignore no-explicit-any -- dns-packet comes without types
  const records = (section: any[]) =>
    section.filter(({ type }) => type !== "OPT").map(({ name, type, class: of, ttl, data }) =>
      `${name} ${ttl} ${of} ${type} ${JSON.stringify(data)}`.toLowerCase()
    ).toSorted();
  const opt = message.additionals.find(({ type }: { type: string }) => type === "OPT");
  // Extended errors (RFC 8914) are left to the server.
  const options = opt?.options.filter(({ code }: { code: number }) => code !== 15)
    .map(({ code, data }: { code: number; data: Buffer }) => `${code}=${data}`);
  return [
    `opcode ${message.opcode}`,
    `rcode ${opt?.extendedRcode || message.rcode}`,
    `flags ${(message.flags & 0x07f0).toString(16)}`,
    // deno-lint-ignore no-explicit-any -- dns-packet comes without types
    ...message.questions.map((each: any) => `? ${each.name} ${each.class} ${each.type}`),
    ...records(message.answers).map((text) => `= ${text}`),
    ...records(message.authorities).map((text) => `@ ${text}`),
    ...records(message.additionals).map((text) => `+ ${text}`),
    ...(opt === undefined ? [] : [`OPT ${opt.ednsVersion} ${opt.flags.toString(16)} [${options}]`]),
  ];
}

/** The parts of an answer that another one has not. */
function beyond(parts: readonly string[], others: readonly string[]): string[] {
  const left = [...others];
  return parts.filter((part) => {
    const at = left.indexOf(part);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

/** A difference that is meant. All other parts of the two answers are the same. */
interface Difference {
  readonly who: "NSD" | "Knot";
  /** To which questions or packets. */
  readonly what: readonly string[];
  readonly reason: string;
  /** What only our answer has, and what only theirs has. */
  readonly ours: readonly string[];
  readonly theirs: readonly string[];
}

function difference(
  who: Difference["who"],
  what: string | readonly string[],
  reason: string,
  ours: readonly string[],
  theirs: readonly string[] = [],
): Difference {
  return { who, what: [what].flat(), reason, ours, theirs };
}

/** Parts of answers about web.example.org, and of others that several differences have. */
const ASKED = "? web.example.org IN A";
const ADDRESSES = ["80", "81"].map((last) => `= web.example.org 3600 in a "198.18.0.${last}"`);
const OPT = "OPT 0 0 []";
const GOOD = ["rcode NOERROR", "flags 400"];
const MALFORMED = ["rcode FORMERR", "flags 0"];
const NOT_IMPLEMENTED = ["rcode NOTIMP"];
const REFUSED = ["rcode REFUSED"];
const DROPPED = ["no answer"];
const OPCODES = Array.from({ length: 15 }, (_, i) => i + 1).filter((opcode) => opcode !== 4);
const CLASSES: Record<number, string> = {
  ...{ 0: "UNKNOWN_0", 2: "CS", 4: "HS", 254: "UNKNOWN_254" },
  ...{ 256: "UNKNOWN_256", 65535: "UNKNOWN_65535" },
};

/** The part of a record of class CH. */
function textPart(name: string, text: string): string {
  return `= ${name} 0 ch txt ${JSON.stringify([Buffer.from(text)]).toLowerCase()}`;
}

const LEAVES_OUT_HOSTS = "with minimal-responses it leaves out addresses of hosts";
const HAS_TRANSFERS = "it has zone transfers";
const TELLS_NO_HOST = "we do not tell the host's name";
const ANY_CLASS = "it answers for any class";
const LEAVES_OUT_QUESTION = "it leaves the question out";
const DROPS = "it drops such queries";
const NO_OTHER_RECORD = "no other record than OPT and TSIG is allowed";

const DIFFERENCES: readonly Difference[] = [
  difference("NSD", ["example.org MX", "EXAMPLE.org MX"], LEAVES_OUT_HOSTS, [
    '+ mail.example.org 300 in a "198.18.0.25"',
    '+ mail.example.org 300 in aaaa "2001:db8::25"',
  ]),
  difference("NSD", "_sip._udp.example.org SRV", LEAVES_OUT_HOSTS, [
    '+ sip.example.org 3600 in a "198.18.0.60"',
  ]),
  difference("NSD", "svc.example.org UNKNOWN_65", LEAVES_OUT_HOSTS, [
    '+ sip.example.org 3600 in a "198.18.0.60"',
  ]),
  difference("NSD", "_dns.ns1.example.org UNKNOWN_64", LEAVES_OUT_HOSTS, [
    '+ ns1.example.org 3600 in a "198.18.0.1"',
    '+ ns1.example.org 3600 in aaaa "2001:db8::1"',
  ]),
  ...[["5", "400", "0"], ["7ff", "500", "100"]].map(([flags, ours, theirs]) =>
    difference(
      "NSD",
      `flags ${flags}`,
      "a query with a response code is malformed to it; to RFC 1035 it is not",
      ["rcode NOERROR", `flags ${ours}`, ASKED, ...ADDRESSES],
      ["rcode FORMERR", `flags ${theirs}`],
    )
  ),
  difference("NSD", OPCODES.map((opcode) => `opcode ${opcode}`), LEAVES_OUT_QUESTION, [ASKED]),
  difference(
    "NSD",
    "opcode 4",
    "it has NOTIFY, and leaves the question out",
    [...NOT_IMPLEMENTED, ASKED],
    ["rcode NXDOMAIN"],
  ),
  difference("Knot", "opcode 4", "it has NOTIFY", NOT_IMPLEMENTED, ["rcode NOTAUTH"]),
  difference("Knot", "opcode 5", "it has UPDATE", NOT_IMPLEMENTED, ["rcode FORMERR"]),
  ...Object.entries(CLASSES).map(([of, name]) =>
    difference("NSD", `class ${of}`, LEAVES_OUT_QUESTION, [`? web.example.org ${name} A`])
  ),
  difference("NSD", "class 255", ANY_CLASS, REFUSED, ["rcode NOERROR", ...ADDRESSES]),
  difference("Knot", "class 255", ANY_CLASS, [...REFUSED, "flags 0"], [...GOOD, ...ADDRESSES]),
  difference(
    "Knot",
    "type 0",
    "to it type 0 is not implemented; to us and NSD no name has it",
    [
      ...GOOD,
      '@ example.org 300 in soa {"mname":"ns1.example.org","rname":"host\\\\.master.example.org",' +
      '"serial":2026010101,"refresh":86400,"retry":7200,"expire":2419200,"minimum":300}',
    ],
    [...NOT_IMPLEMENTED, "flags 0"],
  ),
  difference("NSD", "type 251", HAS_TRANSFERS, NOT_IMPLEMENTED, ["rcode NOTAUTH"]),
  difference("Knot", "type 251", HAS_TRANSFERS, NOT_IMPLEMENTED, ["rcode NOTAUTH"]),
  ...(["NSD", "Knot"] as const).flatMap((who) =>
    ["id.server", "hostname.bind"].map((name) =>
      difference(who, `CH TXT ${name}`, TELLS_NO_HOST, REFUSED, [
        "rcode NOERROR",
        textPart(name, Deno.hostname()),
      ])
    )
  ),
  difference(
    "Knot",
    "CH ANY version.bind",
    "it knows only the type TXT",
    ["rcode NOERROR", textPart("version.bind", VERSION)],
    REFUSED,
  ),
  difference(
    "NSD",
    "no question, but OPT",
    "it takes such queries, which cookies use (RFC 7873 §5.4)",
    ["rcode FORMERR"],
    ["rcode NOERROR"],
  ),
  difference(
    "NSD",
    "two questions and OPT",
    "it leaves OPT out, which RFC 6891 §6.1.1 requires",
    [OPT],
  ),
  difference(
    "Knot",
    [
      ...["no question, but bytes", "two questions", "a question too few", "half a question"],
      ...["half a name", "a pointer as name", "a pointer in the name", "a label of 64"],
      ...["a label of type 2", "a name of 257"],
    ],
    DROPS,
    ["opcode QUERY", ...MALFORMED],
    DROPPED,
  ),
  difference(
    "Knot",
    ["two questions and OPT", "OPT and a broken name"],
    DROPS,
    ["opcode QUERY", ...MALFORMED, OPT],
    DROPPED,
  ),
  difference("Knot", "an answer", "it ignores answers in a query", MALFORMED, [
    ...GOOD,
    ASKED,
    ...ADDRESSES,
  ]),
  difference(
    "NSD",
    ["an authority", "an additional record"],
    NO_OTHER_RECORD,
    [...GOOD, ASKED, ...ADDRESSES],
    MALFORMED,
  ),
  difference(
    "NSD",
    ["OPT before another record", "OPT after another record"],
    NO_OTHER_RECORD,
    [...GOOD, ASKED, ...ADDRESSES, OPT],
    MALFORMED,
  ),
  difference(
    "NSD",
    ["an additional record too few", "half an additional record", "OPT longer than the packet"],
    LEAVES_OUT_QUESTION,
    [ASKED],
  ),
  difference(
    "Knot",
    "bytes at the end",
    "to it the query is malformed; to RFC 1035 it is not",
    [...GOOD, ...ADDRESSES],
    MALFORMED,
  ),
  difference(
    "Knot",
    "OPT and bytes at the end",
    "to it the query is malformed, and it leaves OPT out",
    [...GOOD, ...ADDRESSES, OPT],
    MALFORMED,
  ),
  difference(
    "NSD",
    "OPT of version 255 with DO",
    "it does not copy the DO bit, which RFC 3225 requires",
    ["OPT 0 8000 []"],
    [OPT],
  ),
  difference(
    "NSD",
    [
      ...["OPT with a name", "OPT with an option too long", "OPT with half an option"],
      ...["OPT twice", "OPT as authority", "OPT and opcode 2"],
    ],
    "it leaves question and OPT out of errors",
    [ASKED, OPT],
  ),
  difference("NSD", "OPT and a broken name", "it leaves OPT out of errors", [OPT]),
  difference(
    "Knot",
    ["OPT with an option too long", "OPT with half an option", "OPT twice", "OPT as authority"],
    "it leaves OPT out of format errors",
    [OPT],
  ),
  difference(
    "Knot",
    "OPT with a name",
    "it does not look at the owner, which RFC 6891 §6.1.2 sets",
    MALFORMED,
    [...GOOD, ...ADDRESSES],
  ),
];

Deno.test("the dns app answers as NSD and Knot do, or as is listed", async () => {
  const folder = await Deno.makeTempDir({ prefix: "tegula-dns-" });
  try {
    await Deno.mkdir(`${folder}/knot`);
    const options = { zone: ZONE, rrl_ratelimit: 0, nsid: NSID, version: VERSION };
    const app = await AppHarness.start(dns, { ports: [53], options });
    await using ofNsd = await nsd(folder);
    await using ofKnot = await knot(`${folder}/knot`);
    const listed = new Map(
      DIFFERENCES.flatMap((each) => each.what.map((what) => [`${each.who}: ${what}`, each])),
    );
    const unseen = new Set(listed.keys());
    const surprises: string[] = [];
    const compare = async (what: string, query: Uint8Array, millis: number) => {
      const ours = meaning(app.ask({ payload: query })[0]?.payload ?? null);
      for (const [who, server] of [["NSD", ofNsd], ["Knot", ofKnot]] as const) {
        const theirs = meaning(await server.ask(query, millis));
        const found = { ours: beyond(ours, theirs), theirs: beyond(theirs, ours) };
        if (found.ours.length + found.theirs.length === 0) continue;
        const name = `${who}: ${what}`;
        const meant = listed.get(name);
        unseen.delete(name);
        const isMeant = meant !== undefined && isDeepStrictEqual(found.ours, meant.ours) &&
          isDeepStrictEqual(found.theirs, meant.theirs);
        if (isMeant) continue;
        surprises.push(`${what}\n  we   ${ours.join("; ")}\n  ${who} ${theirs.join("; ")}`);
      }
    };
    for (const name of NAMES) {
      for (const type of TYPES) {
        for (const edns of EDNS) {
          await compare(`${name} ${type}`, encoded(name, type, edns), ANSWER_MILLIS);
        }
      }
    }
    for (const [what, query] of Object.entries(PACKETS)) {
      await compare(what, query, SILENCE_MILLIS);
    }
    assert.deepEqual(surprises, []);
    assert.deepEqual([...unseen], [], "they differ no longer: take them off the list");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
