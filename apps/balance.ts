// SPDX-License-Identifier: Apache-2.0
/**
 * A load balancer for UDP. During a session, a client's datagrams go to one backend, from a local
 * port that identifies the session at this backend, so that answers find the client. New clients are
 * spread by consistent hashing (Maglev), in proportion to weights. `docs/apps.md` has its options.
 *
 * Its own ports (`own_ports`) face the backends; the last one of each instance is for probes. With `state`,
 * sessions survive a reload, a crash and a kill. The slow side (`balance_beside.ts`) may post other backends.
 */

import { Buffer } from "node:buffer";
import type {
  Address,
  Answers,
  App,
  AppContext,
  Datagrams,
  Metric,
} from "../tiles/app/contract.ts";
import { Maglev, mix } from "./library/maglev.ts";
import { SessionTable } from "./library/session_table.ts";
import { TokenBuckets } from "./library/token_buckets.ts";
import { numberOption, wholeOption } from "./options.ts";

const MOST_BACKENDS = 256;
/** Version of the state's layout: address (four words) and port of each backend, and the table of sessions. */
const LAYOUT = 3;
const [ADDRESS_WORDS, BACKEND_WORDS] = [4, 5];
/** Sessions without `state`, unless the backends need more: 72 MiB, of which only used pages take memory. */
const USUAL_SESSIONS = 1 << 20;
/** Ports that a new session tries, if the first ones are taken. */
const MOST_TRIES = 64;
/** Sessions that one tick examines, in a fraction of a millisecond. */
const EXPIRED_AT_ONCE = 1 << 16;
/** The use of a local port, if it is not a session port with an index. */
const [LISTENER, PROBE] = [-1, -2];

/** Messages of the slow side, in JSON: the backends, or the names of those that fail their checks. */
export type Mail =
  | { readonly backends: readonly unknown[] }
  | { readonly failing: readonly string[] };

interface Configured {
  readonly name: string;
  readonly address: Address;
  readonly port: number;
  readonly weight: number;
  readonly drain: boolean;
}

interface Backend extends Configured {
  /** Consecutive probes that it did not answer. */
  failures: number;
  /** Whether it fails the checks of the slow side. */
  isFailing: boolean;
  readonly requests: Metric;
  readonly answers: Metric;
  readonly sessions: Metric;
  readonly up: Metric;
}

/** Makes the balancer. Throws TypeError for a wrong option. */
export default function create(context: AppContext): App {
  return new Balancer(context, parseOptions(context));
}

class Balancer implements App {
  readonly tickMillis: number;
  readonly #context: AppContext;
  readonly #options: Options;
  /** By local port: its index among the session ports, `LISTENER` or `PROBE`. */
  readonly #kinds = new Int32Array(0x10000).fill(LISTENER);
  /** Ports of all our addresses: session N has port N % #ports at backend N / #ports. */
  readonly #ports: number;
  /** The number of ports of each address. */
  readonly #portsEach: number;
  readonly #limit: TokenBuckets | null;
  readonly #maglev = new Maglev();
  /** Backends by slot; null: free. */
  readonly #backends: (Backend | null)[] = Array(MOST_BACKENDS).fill(null);
  /** The slot of each backend, as the session of its address and port. */
  readonly #slots = new SessionTable(
    new Uint8Array(SessionTable.bytesFor(MOST_BACKENDS)),
    MOST_BACKENDS,
  );
  /** Slots for new sessions, in the order of Maglev's indices. */
  #open: number[] = [];
  #nextPort = 0;
  #sessions!: SessionTable;
  /** By slot: address and port of its backend. */
  #placed!: Uint32Array;
  readonly #to: { address: Address; port: number; sourcePort: number; sourceAddress?: Address };
  /** The client of an answer, and our address that it sends to. */
  readonly #client: Address;
  readonly #ours: Address;
  readonly #drops: Readonly<Record<typeof DROPS[number], Metric>>;

  constructor(context: AppContext, options: Options) {
    this.#context = context;
    this.#options = options;
    this.tickMillis = options.probeSeconds * 1000;
    this.#portsEach = options.upstream.length - 1;
    this.#ports = this.#portsEach * Math.max(1, options.addresses.length);
    for (const [i, port] of options.upstream.entries()) {
      this.#kinds[port] = i < this.#portsEach ? i : PROBE;
    }
    const address = context.parseAddress("0.0.0.0")!;
    this.#client = address.copy();
    this.#ours = address.copy();
    this.#to = { address, port: 0, sourcePort: 0, sourceAddress: undefined };
    const { ratelimit: perSecond, burst } = options;
    this.#limit = perSecond > 0 ? new TokenBuckets({ perSecond, burst }) : null;
    const drops = DROPS.map((reason) =>
      [reason, context.metric("balance.dropped", "counter", { reason })!] as const
    );
    this.#drops = Object.fromEntries(drops) as Record<typeof DROPS[number], Metric>;
  }

  /** Takes over the sessions in the state whose backends still exist. */
  begin(): void {
    const { state, log } = this.#context;
    const head = BACKEND_WORDS * MOST_BACKENDS;
    const bytesFor = (slots: number) => head * 4 + SessionTable.bytesFor(slots * this.#ports);
    const needed = Math.max(1, this.#options.backends.length);
    let slots = Math.max(needed, Math.min(MOST_BACKENDS, Math.floor(USUAL_SESSIONS / this.#ports)));
    if (state !== undefined) {
      slots = MOST_BACKENDS;
      while (slots > 0 && bytesFor(slots) > state.view.length) slots--;
      if (slots < needed) {
        const most = Math.ceil(bytesFor(needed) / 2 ** 20);
        throw new TypeError(
          `state: ${needed} backends with ${this.#ports} ports for sessions need "${most}M"`,
        );
      }
    }
    this.#backends.length = slots;
    const memory = state?.view ?? new Uint8Array(bytesFor(slots));
    const layout = LAYOUT * 2 ** 28 + this.#ports;
    if (state !== undefined && state.version !== 0 && state.version !== layout) memory.fill(0);
    state?.setVersion(layout);
    const placed = this.#placed = new Uint32Array(memory.buffer, memory.byteOffset, head);
    this.#sessions = new SessionTable(memory.subarray(head * 4), slots * this.#ports);
    for (let slot = 0; slot < slots; slot++) {
      const port = placed[BACKEND_WORDS * slot + ADDRESS_WORDS];
      if (port === 0) continue;
      const address = this.#client.copy().load(placed, BACKEND_WORDS * slot);
      const name = `${address}:${port}`;
      this.#place(slot, { name, address, port, weight: 1, drain: false });
    }
    // The backends in the state stay until the slow side posts others.
    if (this.#options.backends.length > 0) this.#setBackends(this.#options.backends);
    else this.#spread();
    if (this.#sessions.count > 0) log(`continues with ${this.#sessions.count} sessions`);
  }

  mail(bytes: Uint8Array): void {
    const mail: Mail = JSON.parse(new TextDecoder().decode(bytes));
    if ("backends" in mail) {
      this.#setBackends(parseBackends(mail.backends, this.#context.parseAddress));
      return;
    }
    for (const backend of this.#backends) {
      if (backend === null) continue;
      const isFailing = mail.failing.includes(backend.name);
      if (isFailing === backend.isFailing) continue;
      backend.isFailing = isFailing;
      this.#context.log(`${backend.name} ${isFailing ? "is down: it fails its checks" : "is up"}`);
      this.#spread();
    }
  }

  /** Replaces the backends, and ends sessions of removed ones. */
  #setBackends(backends: readonly Configured[]): void {
    const slotOf = ({ address, port }: Configured) => this.#slots.find(address, port);
    const kept = new Set(backends.map(slotOf));
    for (const [slot, backend] of this.#backends.entries()) {
      if (backend === null || kept.has(slot)) continue;
      for (let i = 0; i < this.#ports; i++) this.#sessions.end(slot * this.#ports + i);
      for (const metric of [backend.sessions, backend.up]) metric.value = 0;
      this.#slots.end(slot);
      this.#placed.fill(0, BACKEND_WORDS * slot, BACKEND_WORDS * (slot + 1));
      this.#backends[slot] = null;
    }
    const slots = this.#backends.length;
    for (const configured of backends) {
      const before = slotOf(configured);
      const slot = before < 0 ? this.#backends.indexOf(null) : before;
      if (slot >= 0) this.#place(slot, configured);
      else this.#context.log(`${configured.name} is left out: there is room for ${slots} backends`);
    }
    this.#spread();
  }

  /** Puts a backend into a slot that is free or already has it. */
  #place(slot: number, configured: Configured): void {
    const { name, address, port } = configured;
    const before = this.#backends[slot];
    address.store(this.#placed, BACKEND_WORDS * slot);
    this.#placed[BACKEND_WORDS * slot + ADDRESS_WORDS] = port;
    // An app's metrics are limited, and names may keep resolving to new addresses.
    const metricOf = (of: string, kind: "counter" | "gauge") =>
      this.#context.metric(`balance.${of}`, kind, { backend: name }) ?? { value: 0 };
    const backend = {
      ...{ ...configured, failures: before?.failures ?? 0, isFailing: before?.isFailing ?? false },
      ...{ requests: metricOf("requests", "counter"), answers: metricOf("answers", "counter") },
      ...{ sessions: metricOf("sessions", "gauge"), up: metricOf("up", "gauge") },
    };
    // A million sessions take a while to count.
    if (before?.name !== name) {
      let count = 0;
      for (let i = slot * this.#ports; i < (slot + 1) * this.#ports; i++) {
        if (this.#sessions.usedAt(i) !== 0) count++;
      }
      backend.sessions.value = count;
    }
    this.#backends[slot] = backend;
    if (before === null) this.#slots.begin(slot, address, port, 1);
  }

  receive(requests: Datagrams, out: Answers): void {
    let now = -1;
    while (requests.next()) {
      if (now < 0) now = Math.floor(requests.receivedAt / 1e9);
      const kind = this.#kinds[requests.destinationPort];
      const isRouted = kind === LISTENER
        ? this.#fromClient(requests, now)
        : this.#fromBackend(requests, kind, now);
      if (!isRouted) continue;
      const at = out.reserve(requests.size);
      if (at < 0) {
        this.#drops.no_room.value++;
        continue;
      }
      out.copy(at);
      out.send(this.#to, at, requests.size);
    }
  }

  tick(out: Answers, nowNanos: number): void {
    const now = Math.floor(nowNanos / 1e9);
    const { idleSeconds, probe, probeFailures, upstream } = this.#options;
    this.#sessions.expire(now - idleSeconds, EXPIRED_AT_ONCE, (session) => {
      this.#backendOf(session)!.sessions.value--;
    });
    for (const backend of this.#backends) {
      if (backend === null) continue;
      if (probe.length > 0) {
        if (++backend.failures === probeFailures + 1) {
          this.#context.log(`${backend.name} is down: it did not answer ${probeFailures} probes`);
          this.#spread();
        }
        const { address, port } = backend;
        out.send({ address, port, sourcePort: upstream[this.#portsEach] }, probe);
      }
      backend.up.value = Number(this.#isUp(backend));
    }
  }

  /** Finds or begins the client's session. Returns whether `#to` is its backend. */
  #fromClient(requests: Datagrams, now: number): boolean {
    const { sourceAddress, sourcePort } = requests;
    const { allow } = this.#options;
    if (allow.length > 0 && !allow.some((prefix) => sourceAddress.isIn(prefix))) {
      return this.#drop("not_allowed");
    }
    if (this.#limit?.take(sourceAddress, requests.receivedAt / 1e6) === false) {
      return this.#drop("rate_limited");
    }
    const sessions = this.#sessions;
    const ports = (sourcePort << 16 | requests.destinationPort) >>> 0;
    let session = sessions.find(sourceAddress, ports);
    if (session >= 0 && this.#isOver(session, now)) {
      this.#end(session);
      session = -1;
    }
    if (session < 0) {
      const index = this.#maglev.find(mix(sourceAddress, sourcePort, 0));
      if (index < 0) return this.#drop("no_backend");
      session = this.#freeSession(this.#open[index], now);
      if (session < 0) return this.#drop("no_port");
      sessions.begin(session, sourceAddress, ports, now);
      this.#backendOf(session)!.sessions.value++;
    }
    sessions.touch(session, now);
    requests.destinationAddress.store(sessions.words, sessions.own(session));
    const backend = this.#backendOf(session)!;
    const to = this.#to;
    to.address = backend.address;
    to.port = backend.port;
    const port = session % this.#ports;
    to.sourcePort = this.#options.upstream[port % this.#portsEach];
    to.sourceAddress = this.#options.addresses[Math.floor(port / this.#portsEach)];
    backend.requests.value++;
    return true;
  }

  /** Finds the session of a backend's answer. Returns whether `#to` is its client. */
  #fromBackend(requests: Datagrams, kind: number, now: number): boolean {
    const slot = this.#slots.find(requests.sourceAddress, requests.sourcePort);
    if (slot < 0) return this.#drop("not_a_backend");
    const backend = this.#backends[slot]!;
    if (kind === PROBE) {
      const wasUp = this.#isUp(backend);
      backend.failures = 0;
      if (!wasUp) {
        this.#context.log(`${backend.name} is up`);
        this.#spread();
      }
      return false;
    }
    const sessions = this.#sessions;
    const session = slot * this.#ports + this.#firstPortOf(requests.destinationAddress) + kind;
    if (sessions.usedAt(session) === 0) return this.#drop("no_session");
    sessions.touch(session, now);
    const to = this.#to;
    const ports = sessions.read(session, this.#client);
    to.address = this.#client;
    to.port = ports >>> 16;
    to.sourcePort = ports & 0xffff;
    to.sourceAddress = this.#ours.load(sessions.words, sessions.own(session));
    backend.answers.value++;
    return true;
  }

  /** The first port of this local address. Datagrams to unknown addresses use the first address's sessions. */
  #firstPortOf(address: Address): number {
    const { addresses } = this.#options;
    for (let i = 1; i < addresses.length; i++) {
      if (addresses[i].equals(address)) return i * this.#portsEach;
    }
    return 0;
  }

  /** A free session at the backend of this slot; -1 if all that it tries are taken. */
  #freeSession(slot: number, now: number): number {
    for (let tries = Math.min(MOST_TRIES, this.#ports); tries > 0; tries--) {
      const session = slot * this.#ports + this.#nextPort;
      this.#nextPort = (this.#nextPort + 1) % this.#ports;
      if (this.#sessions.usedAt(session) === 0) return session;
      if (now - this.#sessions.usedAt(session) < this.#options.idleSeconds) continue;
      this.#end(session);
      return session;
    }
    return -1;
  }

  /** Whether a session has been idle for too long, or its backend is down. */
  #isOver(session: number, now: number): boolean {
    return now - this.#sessions.usedAt(session) >= this.#options.idleSeconds ||
      !this.#isUp(this.#backendOf(session)!);
  }

  #end(session: number): void {
    this.#sessions.end(session);
    this.#backendOf(session)!.sessions.value--;
  }

  #backendOf(session: number): Backend | null {
    return this.#backends[Math.floor(session / this.#ports)];
  }

  #isUp({ failures, isFailing }: Backend): boolean {
    return failures <= this.#options.probeFailures && !isFailing;
  }

  /** Spreads new sessions over the backends that are up and not drained. */
  #spread(): void {
    this.#open = [...this.#backends.keys()].filter((slot) => {
      const backend = this.#backends[slot];
      return backend !== null && this.#isUp(backend) && !backend.drain;
    });
    this.#maglev.build(this.#open.map((slot) => this.#backends[slot]!));
  }

  #drop(reason: typeof DROPS[number]): false {
    this.#drops[reason].value++;
    return false;
  }
}

/** Reasons for which a datagram is dropped. */
const DROPS = [
  ...["not_allowed", "rate_limited", "no_backend", "no_port", "no_room", "no_session"] as const,
  "not_a_backend",
] as const;

type Options = ReturnType<typeof parseOptions>;

function parseOptions(context: AppContext) {
  const { options, ownPorts: upstream, parseAddress, parsePrefix } = context;
  if (upstream.length < 2) {
    throw new TypeError(
      'own_ports: each instance needs two or more, such as ["20000-20063"] in all',
    );
  }
  const list = (name: string) => {
    const { [name]: value = [] } = options;
    if (Array.isArray(value)) return value as unknown[];
    throw new TypeError(`options.${name}: must be a list`);
  };
  // The slow side posts backends with names or from a file.
  const isStatic = options.resolve === undefined && options.backends_file === undefined;
  const backends = isStatic ? parseBackends(list("backends"), parseAddress) : [];
  const parsed = <Made>(name: string, parse: (text: string) => Made | null, what: string) =>
    list(name).map((value) => {
      const made = parse(String(value));
      if (made !== null) return made;
      throw new TypeError(`options.${name}: '${value}' is not ${what}`);
    });
  const { probe = "" } = options;
  if (typeof probe !== "string" || !/^([\da-f]{2}){0,512}$/i.test(probe)) {
    throw new TypeError("options.probe: must be up to 512 bytes in hexadecimal");
  }
  return {
    /** Ports towards the backends, the last one for probes; local addresses, or none: the kernel's choice. */
    ...{ upstream, backends },
    addresses: parsed("addresses", parseAddress, "an IPv4 address"),
    allow: parsed("allow", parsePrefix, "an IPv4 address or prefix"),
    probe: Buffer.from(probe, "hex"),
    ...probingOf(options),
    idleSeconds: numberOption(options, "idle_timeout", { usual: 60, least: 1, most: 86_400 }),
    ratelimit: numberOption(options, "ratelimit", { usual: 0, least: 0, most: 1e7 }),
    burst: wholeOption(options, "burst", { usual: 100, least: 1, most: 1e7 }),
  };
}

/** The interval of probes or checks, and the number of failures that are too many. Throws TypeError. */
export function probingOf(options: AppContext["options"]) {
  return {
    probeSeconds: numberOption(options, "probe_seconds", { usual: 1, least: 0.1, most: 60 }),
    probeFailures: wholeOption(options, "probe_failures", { usual: 3, least: 1, most: 100 }),
  };
}

/** Reads a list of backends. Throws TypeError. */
export function parseBackends(
  list: readonly unknown[],
  parseAddress: AppContext["parseAddress"],
): Configured[] {
  const backends = list.map((value) => parseBackend(value, parseAddress));
  if (backends.length === 0 || backends.length > MOST_BACKENDS) {
    throw new TypeError(`options.backends: must be 1 to ${MOST_BACKENDS} backends`);
  }
  const names = backends.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice !== undefined) throw new TypeError(`options.backends: ${twice} comes twice`);
  return backends;
}

function parseBackend(value: unknown, parseAddress: AppContext["parseAddress"]): Configured {
  const table = typeof value === "string" ? { address: value } : value as Record<string, unknown>;
  const { address: name, weight = 1, drain = false, ...more } = table ?? {};
  const [, host = "", port] = /^([\d.]+):(\d{1,5})$/.exec(String(name)) ?? [];
  const address = parseAddress(host);
  if (address === null || Number(port) < 1 || Number(port) > 0xffff) {
    throw new TypeError(
      `options.backends: '${name}' is not address:port; a name needs resolve, the seconds between look-ups`,
    );
  }
  if (typeof weight !== "number" || !(weight >= 0 && weight <= 1000)) {
    throw new TypeError(`options.backends: the weight of ${name} must be a number from 0 to 1000`);
  }
  if (typeof drain !== "boolean" || Object.keys(more).length > 0) {
    throw new TypeError(
      `options.backends: ${name} takes weight and drain = true, not ${Object.keys(more)}`,
    );
  }
  return { name: String(name), address, port: Number(port), weight, drain };
}
