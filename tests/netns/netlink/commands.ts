// SPDX-License-Identifier: Apache-2.0
/**
 * Random commands of `ip`, and settings, about a small world, so that they meet: few prefixes that lie in each other,
 * few gateways, few links. The commands of a seed are always the same and do not depend on what
 * became of those before, so that any part of them can be run again; some will be refused, which is
 * fine.
 */

/** A small fast generator (mulberry32), from 0 to below 1. */
export function randomFrom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = (t + Math.imul(t ^ t >>> 7, 61 | t)) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

const LINKS = ["v0", "v1", "v2", "v3", "x0", "lo", "br0"];
const GATEWAYS = [0, 1, 2].flatMap((net) => [5, 6, 7].map((host) => `198.18.${net}.${host}`));
const OWN = [0, 1, 2].flatMap((net) => [1, 2, 3].map((host) => `198.18.${net}.${host}`));
const OWN_LENGTHS = [24, 25, 32];
/** Destination prefixes; what is asked about lies around their edges. */
export const PREFIXES = [
  ...[
    "0.0.0.0/0",
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "198.18.0.0/15",
    "198.18.0.0/24",
    "198.18.0.4/30",
  ],
  ...["203.0.112.0/22", "203.0.113.0/24", "203.0.113.0/25", "203.0.113.128/26", "203.0.113.7/32"],
  ...["203.0.114.0/24", "203.0.114.16/28", "203.0.114.17/32", "192.0.2.0/24", "192.0.2.128/25"],
  ...["127.0.0.8/29", "198.18.2.0/23", "198.18.1.7/32"],
];
/**
 * Those without a gateway in them. A gateway that is an address of our own means "on-link" to the
 * kernel, which decides so when the route is made and tells nobody.
 */
const REMOTE_PREFIXES = PREFIXES.filter((prefix) => /^(203|192|127)/.test(prefix));
/**
 * Of multicast routes only: the kernel would take what it once found out about a group for the answer
 * about whatever else goes by the same next hop.
 */
const MULTICAST_PREFIXES = ["224.0.0.0/4", "239.1.0.0/16"];
const METRICS = ["", "", "", "metric 50", "metric 100"];
const TO_MANY = ["broadcast", "multicast", "anycast"];
/** One that failed is announced only where it was usable before. */
const NEIGHBOR_STATES = ["permanent", "stale", "stale", "reachable", "failed", "failed", "noarp"];
/** The type of a route, where it does not go without saying; `ip` wants it in front. */
const TYPE = /^(local|broadcast|multicast|anycast|blackhole|unreachable|prohibit|throw)\b/;
const REFUSALS = ["blackhole", "unreachable", "prohibit", "throw"];

/** The commands that build what the others work on. */
export const WORLD = [
  "link add v0 type veth peer name v1",
  "link add v2 type veth peer name v3",
  "link add x0 type veth peer name x1",
  "link set v0 up",
  "link set v1 up",
  "link set v2 up",
  "link set v3 up",
  "addr add 198.18.0.1/24 dev v0",
  "addr add 198.18.1.1/24 dev v2",
];

/** `count` commands of a seed. */
export function commands(seed: number, count: number): string[] {
  const random = randomFrom(seed);
  const generator = new Generator(random);
  return Array.from({ length: count }, () => generator.next());
}

class Generator {
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
  }

  next(): string {
    const dice = this.#random();
    if (dice < 0.5) return this.#route();
    if (dice < 0.62) return this.#nextHop();
    if (dice < 0.75) return this.#address();
    if (dice < 0.9) return this.#link();
    if (dice < 0.92) return this.#setting();
    return this.#neighbor();
  }

  #one<T>(from: readonly T[]): T {
    return from[Math.floor(this.#random() * from.length)];
  }

  #maybe(part: number, text: () => string): string {
    return this.#random() < part ? ` ${text()}` : "";
  }

  #route(): string {
    const verb = this.#one(["add", "add", "append", "prepend", "replace", "change", "del", "del"]);
    const metric = this.#one(METRICS);
    const words = verb === "del" && this.#random() < 0.6 ? "" : this.#way();
    const type = TYPE.exec(words)?.[0] ?? "";
    const prefix = this.#one(
      type === "local" ? REMOTE_PREFIXES : type === "multicast" ? MULTICAST_PREFIXES : PREFIXES,
    );
    return `route ${verb} ${type} ${prefix} ${metric} ${words.slice(type.length)}`
      .replaceAll(/ +/g, " ").trim();
  }

  /** Type and next hop of a route. */
  #way(): string {
    const dice = this.#random();
    if (dice < 0.12) return this.#one(REFUSALS);
    if (dice < 0.14) return `${this.#one(REFUSALS)} table local`;
    if (dice < 0.15) return `via ${this.#one(GATEWAYS)} table local`;
    if (dice < 0.17) return `local dev ${this.#one(["lo", "v0"])}`;
    if (dice < 0.18) return `${this.#one(TO_MANY)} dev ${this.#one(LINKS)}`;
    if (dice < 0.19) return `via inet6 fe80::1 dev ${this.#one(LINKS)}`;
    if (dice < 0.22) return `via ${this.#one(GATEWAYS)} table 1000`;
    if (dice < 0.24) return `via ${this.#one(GATEWAYS)} tos 0x10`;
    if (dice < 0.34) return `nhid ${this.#one([1, 2, 3, 4, 5, 10, 11, 12])}`;
    if (dice < 0.5) {
      return `${this.#maybe(0.15, () => this.#source())}${this.#maybe(0.15, () => "mtu 1400")} ` +
        this.#hops();
    }
    if (dice < 0.6) {
      return `dev ${this.#one(LINKS)}${this.#maybe(0.3, () => this.#source())}` +
        this.#maybe(0.2, () => `scope ${this.#one(["link", "global", "site"])}`);
    }
    if (dice < 0.65) return `via ${this.#one(GATEWAYS)} dev ${this.#one(LINKS)} onlink`;
    return `via ${this.#one(GATEWAYS)}` + this.#maybe(0.2, () => this.#source()) +
      this.#maybe(0.2, () => `mtu ${this.#one(["1280", "1400", "9000", "lock 1300"])}`);
  }

  #source(): string {
    return `src ${this.#one(OWN)}`;
  }

  #hops(): string {
    const count = 2 + Math.floor(this.#random() * 3);
    return Array.from({ length: count }, () => {
      const weight = this.#one([1, 1, 2, 5, 100]);
      if (this.#random() < 0.1) {
        return `nexthop via ${this.#one(GATEWAYS)} dev ${this.#one(LINKS)} onlink weight ${weight}`;
      }
      return this.#random() < 0.8
        ? `nexthop via ${this.#one(GATEWAYS)} weight ${weight}`
        : `nexthop dev ${this.#one(LINKS)} weight ${weight}`;
    }).join(" ");
  }

  #nextHop(): string {
    const verb = this.#one(["add", "replace", "replace", "del"]);
    const group = this.#random() < 0.35;
    const id = group ? this.#one([10, 11, 12]) : this.#one([1, 2, 3, 4, 4, 5]);
    if (verb === "del") return `nexthop del id ${id}`;
    if (group) {
      const members = [1, 2, 3, 4].filter(() => this.#random() < 0.5);
      const weighted = members.map((member) => `${member},${this.#one([1, 2, 7])}`);
      // The kernel keeps the kind of a group, and those of 5 (an entry for bridges) out of routes.
      const kind = id === 12 ? " type resilient buckets 32" : "";
      return `nexthop ${verb} id ${id} group ${weighted.join("/") || "1"}${kind}`;
    }
    if (id === 5) return `nexthop ${verb} id 5 via ${this.#one(GATEWAYS)} fdb`;
    if (this.#random() < 0.1) return `nexthop ${verb} id ${id} blackhole`;
    const dev = this.#one(["v0", "v2", "x0"]);
    if (this.#random() < 0.15) return `nexthop ${verb} id ${id} dev ${dev}`;
    return `nexthop ${verb} id ${id} via ${this.#one(GATEWAYS)} dev ${dev}` +
      this.#maybe(0.2, () => "onlink");
  }

  #address(): string {
    const dev = this.#one(["v0", "v0", "v2", "v2", "x0", "v1", "lo"]);
    const dice = this.#random();
    if (dice < 0.06) return `addr flush dev ${dev}`;
    const verb = dice < 0.45 ? "add" : dice < 0.55 ? "replace" : "del";
    // A whole prefix on loopback would make gateways in it addresses of our own.
    const length = dev === "lo" ? 32 : this.#one(OWN_LENGTHS);
    const address = `${this.#one(OWN)}/${length}`;
    if (verb === "del") return `addr del ${address} dev ${dev}`;
    const peer = dev === "lo"
      ? ""
      : this.#maybe(0.1, () => `peer ${this.#one(GATEWAYS)}/${this.#one([32, 32, 24])}`);
    return `addr ${verb} ${peer === "" ? address : address.split("/")[0]}${peer} dev ${dev}` +
      this.#maybe(0.1, () => "scope link") + this.#maybe(0.1, () => `label ${dev}:1`) +
      this.#maybe(0.15, () => `metric ${this.#one([50, 100])}`) +
      this.#maybe(0.1, () => "noprefixroute") + this.#maybe(0.1, () => "broadcast +");
  }

  #link(): string {
    const dev = this.#one(["v0", "v1", "v2", "v3", "x0", "x1"]);
    const dice = this.#random();
    if (dice < 0.35) return `link set ${dev} up`;
    if (dice < 0.6) return `link set ${dev} down`;
    if (dice < 0.7) return `link set ${dev} mtu ${this.#one([1280, 1500, 9000])}`;
    if (dice < 0.76) return `link set ${dev} address 02:00:00:00:00:${this.#one(["01", "02"])}`;
    if (dice < 0.8) return "link set v2 name w2";
    if (dice < 0.86) return "link set w2 name v2";
    if (dice < 0.89) return `link del ${this.#one(["x0", "br0", "v2"])}`;
    if (dice < 0.93) return "link add x0 type veth peer name x1";
    if (dice < 0.96) return "link add v2 type veth peer name v3";
    if (dice < 0.98) return "link add br0 type bridge";
    return `link set ${this.#one(["v3", "x1"])} ${this.#one(["master br0", "nomaster"])}`;
  }

  /** A setting of net.ipv4. */
  #setting(): string {
    const where = this.#one(["all", "default", "v0", "v0", "v2", "v2"]);
    return `sysctl conf/${where}/ignore_routes_with_linkdown ${this.#one([0, 1])}`;
  }

  #neighbor(): string {
    const verb = this.#one(["replace", "replace", "del"]);
    const where = `${this.#one(GATEWAYS)} dev ${this.#one(["v0", "v2", "x0"])}`;
    if (verb === "del") return `neigh del ${where}`;
    const mac = `02:00:00:00:01:0${Math.floor(this.#random() * 9)}`;
    const as = (state: string) => `neigh replace ${where} lladdr ${mac} nud ${state}`;
    const state = this.#one(NEIGHBOR_STATES);
    return state === "failed" ? `${as("stale")} && ${as(state)}` : as(state);
  }
}

/** Addresses near the edges of all that the commands are about. */
export function addressesToAsk(): number[] {
  const addresses = new Set<number>();
  for (const prefix of [...PREFIXES, ...MULTICAST_PREFIXES]) {
    const [dotted, length] = prefix.split("/");
    const first = dotted.split(".").reduce((sum, byte) => sum * 256 + Number(byte), 0);
    const last = first + 2 ** (32 - Number(length)) - 1;
    for (const edge of [first - 1, first, first + 1, last - 1, last, last + 1]) {
      if (edge > 0x0100_0000 && edge < 2 ** 32) addresses.add(edge);
    }
  }
  for (const text of [...GATEWAYS, ...OWN]) {
    addresses.add(text.split(".").reduce((sum, byte) => sum * 256 + Number(byte), 0));
  }
  for (const net of [0, 1, 2]) {
    for (const host of [0, 127, 128, 255]) addresses.add(0xc6120000 + net * 256 + host);
  }
  for (const special of [0x7f000001, 0x7f000009, 0xe0000001, 0xefffffff, 0xffffffff]) {
    addresses.add(special);
  }
  return [...addresses];
}
