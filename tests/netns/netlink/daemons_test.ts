// SPDX-License-Identifier: Apache-2.0
/**
 * Beside the programs that move routes for a living: BIRD, and `ip -batch` (docs/kernel.md, Routes). What
 * they do at whatever pace, the mirror follows; what they do not take away is never seen to be gone.
 */

import { strict as assert } from "node:assert";
import { heapView } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { formatAddress } from "../../../netbase/route.ts";
import { Mirror } from "../../../tiles/netlink/mirror.ts";
import { TILE_REGION_BYTES, TileReader } from "../../../tiles/runtime/tile.ts";
import {
  answeredAtLeast,
  Appliance,
  Client,
  eventually,
  HOST,
  type Lab,
  labTest,
  peer,
} from "../lab.ts";
import { Bird } from "../../../bench/bird.ts";
import type { ReaderResult, ReaderTask } from "./daemons_reader.ts";
import { assertCurrent, cleanSlate, ipBatch, library, Mirrored } from "./kit.ts";

/** Routes that BIRD brings, and those that `ip -batch` replaces. */
const STATIC_ROUTES = 50_000;
const REPLACED_ROUTES = 100_000;
/** Those from here on lie in 21.0.0.0/8. */
const COVERED_FROM = 65_536;
/** Datagrams a second, for each of Tegula and the kernel. */
const RATE = 500;
/** As what the kernel knows BIRD's routes (linux/rtnetlink.h). */
const RTPROT_BIRD = 12;
/** The first of the prefixes, /24s one after the other: 20.0.0.0/24. */
const FIRST_PREFIX = 0x14000000;

/** The `i`-th prefix. */
function prefix(i: number): string {
  return `${formatAddress(FIRST_PREFIX + i * 256)}/24`;
}

/** v0 198.18.0.2/24, up, in the test's own namespace. */
function oneLink(): void {
  cleanSlate();
  ipBatch([
    "link add v0 type veth peer name v1",
    "link set v0 up",
    "link set v1 up",
    "addr add 198.18.0.2/24 dev v0",
  ]);
}

/** BIRD with `count` static routes from the `first` prefix on, by one gateway, put into the kernel. */
function staticRoutes(
  { first, count, gateway }: { first: number; count: number; gateway: string },
) {
  const routes = Array.from(
    { length: count },
    (_, i) => `  route ${prefix(first + i)} via ${gateway};`,
  );
  return [
    "router id 198.18.0.2;",
    "protocol device {}",
    "protocol kernel { ipv4 { export all; }; }",
    "protocol static {",
    "  ipv4;",
    ...routes,
    "}",
  ].join("\n");
}

/** Waits until all of BIRD's routes lead to `gateway`, and compares everything with a new mirror. */
async function assertFollowed(mirrored: Mirrored, routes: number, gateway: string): Promise<void> {
  await eventually(`${routes} routes by ${gateway}`, async () => {
    mirrored.settle();
    await Promise.resolve();
    let count = 0;
    for (const route of mirrored.writer.rib.routes()) {
      if (route.protocol !== RTPROT_BIRD) continue;
      if (formatAddress(route.gateway) !== gateway) return undefined;
      count++;
    }
    return count === routes ? true : undefined;
  }, { timeoutMs: 60_000 });
  assertCurrent(mirrored);
  assert.equal(mirrored.writer.fib.overflow, 0);
}

Deno.test("BIRD's static routes are followed as they come, move, half go, and stay behind", async () => {
  oneLink();
  using mirrored = new Mirrored().sync();
  const [one, other] = ["198.18.0.7", "198.18.0.8"];
  const all = { first: 0, count: STATIC_ROUTES };
  const half = { first: STATIC_ROUTES / 2, count: STATIC_ROUTES / 2 };
  await using bird = await Bird.start(staticRoutes({ ...all, gateway: one }));
  await assertFollowed(mirrored, all.count, one);
  await bird.configure(staticRoutes({ ...all, gateway: other }));
  await assertFollowed(mirrored, all.count, other);
  await bird.configure(staticRoutes({ ...half, gateway: other }));
  await assertFollowed(mirrored, half.count, other);
  await bird.crash();
  await assertFollowed(mirrored, half.count, other);
});

/**
 * Commands that give every prefix another gateway: those of 20.0.0.0/8, which have nothing under them,
 * in place, those of 21.0.0.0/8, under which there is another route, by deleting and adding.
 */
function* replacing(gateway: string): Generator<string> {
  for (let i = 0; i < REPLACED_ROUTES; i++) {
    if (i >= COVERED_FROM) yield `route del ${prefix(i)}`;
    yield `route ${i >= COVERED_FROM ? "add" : "replace"} ${prefix(i)} via ${gateway}`;
  }
}

/** A mirror, and a reader in another thread that looks up an address under each of the prefixes. */
class Watched implements Disposable {
  readonly mirror: Mirror;
  readonly writer: NetbaseWriter;
  readonly #worker: Worker;
  readonly #control = new Int32Array(new SharedArrayBuffer(8));
  readonly #task: ReaderTask;

  constructor() {
    const [netbase, tile] = [heapView(NETBASE_BYTES), heapView(TILE_REGION_BYTES)];
    this.writer = new NetbaseWriter(netbase, { readers: [new TileReader(tile)], seed: 1 });
    this.mirror = new Mirror({ library, writer: this.writer });
    const url = new URL("./daemons_reader.ts", import.meta.url);
    this.#worker = new Worker(url, { type: "module" });
    const addresses = Uint32Array.from(
      { length: REPLACED_ROUTES },
      (_, i) => FIRST_PREFIX + i * 256 + (i & 0xff),
    );
    this.#task = { netbase, tile, control: this.#control.buffer as SharedArrayBuffer, addresses };
  }

  /** Begins to look things up. */
  async start(): Promise<void> {
    const ready = this.#message();
    this.#worker.postMessage(this.#task);
    await ready;
  }

  /** How often the reader has been through all addresses. */
  get rounds(): number {
    return Atomics.load(this.#control, 1);
  }

  /** Ends the reader and returns what it found. */
  async stop(): Promise<ReaderResult> {
    const result = this.#message();
    Atomics.store(this.#control, 0, 1);
    return await result as ReaderResult;
  }

  #message(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }) => resolve(data);
      this.#worker.onerror = ({ message }) => reject(new Error(message));
    });
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
    this.mirror.close();
  }
}

Deno.test("a covered address is never without route while ip replaces 100,000", async () => {
  oneLink();
  ipBatch([
    "route add 21.0.0.0/8 via 198.18.0.9",
    ...Array.from({ length: REPLACED_ROUTES }, (_, i) => `route add ${prefix(i)} via 198.18.0.7`),
  ]);
  using watched = new Watched();
  const { mirror, writer } = watched;
  mirror.sync();
  await watched.start();
  let ended = false;
  const batch = ipBatchMeanwhile(replacing("198.18.0.8")).finally(() => ended = true);
  for (let turns = 0; !ended; turns++) {
    if (mirror.turn() === 0 || turns % 64 === 0) await nextTask();
    // In the midst of it everything is read anew.
    if (turns === 100) mirror.resync();
  }
  await batch;
  mirror.settle();
  // And once more, when every step of it is shown.
  mirror.resync();
  mirror.settle();
  const rounds = watched.rounds;
  await eventually("a look at the end", async () => {
    await nextTask();
    return watched.rounds > rounds + 1 ? true : undefined;
  });
  const { lookups, failures } = await watched.stop();
  assert.equal(failures, 0);
  assert.ok(lookups > 10 * REPLACED_ROUTES, `${lookups} lookups`);
  const gateways = [...writer.rib.routes()]
    .filter(({ prefixLength }) => prefixLength === 24)
    .filter(({ gateway }) => formatAddress(gateway) === "198.18.0.8");
  assert.equal(gateways.length, REPLACED_ROUTES);
});

Deno.test("a covered address is never without route while BIRD restarts gracefully", async () => {
  oneLink();
  const table = { first: 0, count: REPLACED_ROUTES, gateway: "198.18.0.7" };
  const configuration = staticRoutes(table)
    .replace("protocol kernel {", "protocol kernel { graceful restart yes;");
  using watched = new Watched();
  const { mirror, writer } = watched;
  mirror.sync();
  const size = writer.rib.size;
  await using first = await Bird.start(configuration);
  await eventually("all of BIRD's routes", async () => {
    await nextTask();
    mirror.settle();
    return writer.rib.size === size + table.count ? true : undefined;
  });
  await watched.start();
  let ended = false;
  const restart = async () => {
    await first.command("graceful restart");
    await using second = await Bird.start(configuration, { options: ["-R"] });
    await eventually("the end of BIRD's recovery", async () => {
      const status = await second.command("show status");
      return /Daemon is up and running/.test(status) && !/recovery in progress/i.test(status)
        ? true
        : undefined;
    });
    const rounds = watched.rounds;
    while (watched.rounds < rounds + 2) await nextTask();
    mirror.settle();
    assert.equal(writer.rib.size, size + table.count);
    assert.equal((await watched.stop()).failures, 0);
  };
  const all = restart().finally(() => ended = true);
  while (!ended) {
    mirror.turn();
    await nextTask();
  }
  await all;
});

/** Runs many commands with one `ip`, while this thread continues. */
async function ipBatchMeanwhile(commands: Iterable<string>): Promise<void> {
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, [...commands].join("\n"));
    const { success } = await new Deno.Command("ip", { args: ["-batch", file] }).output();
    assert.ok(success, "ip -batch");
  } finally {
    await Deno.remove(file);
  }
}

/** Lets what has been waited for come about. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** The client's own address, which it is known by over either router. */
const CLIENT = "203.0.113.1";

/** How routers tell a host of the client's network: BIRD's configuration of each, the first preferred. */
interface Protocol {
  /** Moves there and back; OSPF takes five seconds for each (MinLSInterval). */
  readonly moves: number;
  router(i: number): string;
  readonly host: string;
}

const PROTOCOLS: Readonly<Record<string, Protocol>> = {
  BGP: {
    moves: 3,
    router: (i) => `
      protocol bgp to_host {
        local 198.18.${i}.2 as ${65001 + i};
        neighbor 198.18.${i}.1 as 65000;
        connect delay time 1;
        ipv4 { import none; export all; next hop self; };
      }`,
    host: [0, 1].map((i) => `
      protocol bgp r${i} {
        local 198.18.${i}.1 as 65000;
        neighbor 198.18.${i}.2 as ${65001 + i};
        connect delay time 1; connect retry time 1; error wait time 1, 2;
        ipv4 { import filter { bgp_local_pref = ${200 - i}; accept; }; export none; };
      }`).join(""),
  },
  OSPF: {
    moves: 1,
    router: () => ospf(["host"], "export all"),
    host: ospf(["eth0", "eth1"], "export none"),
  },
};

/** OSPF on some interfaces, the first preferred. */
function ospf(interfaces: readonly string[], exporting: string): string {
  const each = interfaces.map((name, i) =>
    `interface "${name}" { type ptp; hello 1; dead 4; cost ${10 + i}; };`
  );
  return `protocol ospf v2 { ipv4 { import all; ${exporting}; }; area 0 { ${each.join(" ")} }; }`;
}

/** BIRD of router `i`, which announces the client's network to the host. */
function router({ router: protocol }: Protocol, i: number): string {
  return `
    router id 198.18.${i}.2;
    protocol device {}
    protocol static announced { ipv4; route 203.0.113.0/24 blackhole; }
    ${protocol(i)}`;
}

/** BIRD of the host: what two routers announce goes into the kernel, the first one's rather. */
function hostBird({ host }: Protocol): string {
  return `
    router id ${HOST};
    protocol device {}
    protocol kernel { ipv4 { export filter { if net = 203.0.113.0/24 then accept; reject; }; }; }
    ${host}`;
}

/** A host that reaches a client by either of two routers. Requests come by the first one. */
async function twoRouters(lab: Lab) {
  const [host, client] = [await lab.namespace("host"), await lab.namespace("client")];
  const routers = [await lab.namespace("r1"), await lab.namespace("r2")];
  for (const [i, namespace] of routers.entries()) {
    await lab.join(
      { namespace: host, name: `eth${i}`, addresses: [`198.18.${i}.1/24`] },
      { namespace, name: "host", addresses: [`198.18.${i}.2/24`] },
    );
    await lab.join(
      { namespace, name: "client", addresses: [`192.0.2.${i * 4 + 1}/30`] },
      { namespace: client, name: `eth${i}`, addresses: [`192.0.2.${i * 4 + 2}/30`] },
    );
    await namespace.sysctl({ "ip_forward": 1, "conf/all/rp_filter": 0, "conf/host/rp_filter": 0 });
    await namespace.ip(`route add 203.0.113.0/24 via 192.0.2.${i * 4 + 2}`);
    await client.sysctl({ "conf/all/rp_filter": 0, [`conf/eth${i}/rp_filter`]: 0 });
    await host.sysctl({ "conf/all/rp_filter": 0, [`conf/eth${i}/rp_filter`]: 0 });
  }
  await client.ip(`address add ${CLIENT}/32 dev lo`);
  await client.ip(`route add ${HOST} via 192.0.2.1 src ${CLIENT}`);
  return { host, client, routers };
}

for (const [name, protocol] of Object.entries(PROTOCOLS)) {
  labTest(
    `what ${name} moves from router to router loses no answer that the kernel keeps`,
    async (lab) => {
      const { host, client, routers: [r1, r2] } = await twoRouters(lab);
      await using first = await Bird.start(router(protocol, 0), { namespace: r1 });
      await using _second = await Bird.start(router(protocol, 1), { namespace: r2 });
      await using _third = await Bird.start(hostBird(protocol), { namespace: host });
      const isBy = (gateway: string) =>
        eventually(`the way by ${gateway}`, async () => {
          const [route] = JSON.parse(await host.ip("-j route show 203.0.113.0/24"));
          return route?.gateway === gateway ? true : undefined;
        }, { timeoutMs: 60_000 });
      await isBy("198.18.0.2");

      const interfaces = ["--interface", "eth0", "--interface", "eth1", "--provider", "xdp"];
      await Appliance.start(host, [...interfaces, "--listen", "7=echo"]);
      await peer(host, "udp", HOST, "4242");
      const ports = [7, 4242];
      const askers = ports.map(() => new Client(client));
      for (const [i, port] of ports.entries()) {
        await askers[i].start({ flows: [{ source: CLIENT, target: HOST, port }], rate: RATE });
      }
      const moreAnswers = async () => {
        const sent = await Promise.all(askers.map((asker) => asker.progress()));
        await Promise.all(
          askers.map((asker, i) => answeredAtLeast(asker, sent[i].answered + RATE / 5)),
        );
      };
      await moreAnswers();
      for (let move = 0; move < protocol.moves; move++) {
        await first.command("disable announced");
        await isBy("198.18.1.2");
        await moreAnswers();
        await first.command("enable announced");
        await isBy("198.18.0.2");
        await moreAnswers();
      }
      await first.crash();
      await isBy("198.18.1.2");
      await moreAnswers();
      const [tegula, kernel] = await Promise.all(askers.map((asker) => asker.stop()));
      assert.equal(tegula.mismatched, 0);
      const [lost, lostByKernel] = [tegula, kernel].map(({ sent, answered }) => sent - answered);
      assert.ok(lost <= lostByKernel, `${lost} lost, the kernel lost ${lostByKernel}`);
      const [link] = JSON.parse(await client.ip("-j -s link show dev eth1"));
      assert.ok(link.stats64.rx.packets > tegula.sent / 5, "the second router carried answers");
    },
  );
}
