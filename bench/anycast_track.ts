// SPDX-License-Identifier: Apache-2.0
/**
 * The track for many hosts with one address: a client, a router that spreads flows over three hosts,
 * and BIRD on each, with the very files that operators get (`packaging/bird`).
 *
 *     client g0 198.18.0.1/24 ── c0 router r1 192.0.2.1 ── e0 192.0.2.11 host1, and 203.0.113.53 on lo
 *       requests from 198.19.0.0/18      r2 192.0.2.1 ── e0 192.0.2.12 host2, too
 *                                        r3 192.0.2.1 ── e0 192.0.2.13 host3, too
 */

import { Bird } from "./bird.ts";
import type { Lab, LabProcess, Namespace } from "../demo/lab.ts";
import type { Programs } from "./programs.ts";
import { Service } from "./service.ts";

/** The address that the hosts announce, and the port on which they answer. */
const SERVICE = "203.0.113.53";
const PORT = 7;
const HOSTS = [1, 2, 3];
const CLIENT = "198.18.0.1";
/** The router on each link to a host. */
const ROUTER = "192.0.2.1";
/** The processor of the client. */
const CLIENT_CPU = "0";
/** How long a route may take to appear or disappear. */
const PATIENCE_MILLIS = 60_000;

/** A file of `packaging/bird`. */
export function birdFile(name: string): string {
  return Deno.readTextFileSync(new URL(`../packaging/bird/${name}`, import.meta.url));
}

export interface Host {
  readonly namespace: Namespace;
  readonly service: Service;
  readonly bird: Bird;
}

/** The client, the router and the hosts; use with `await using`, within a Lab. */
export class AnycastTrack implements AsyncDisposable {
  readonly #client: Namespace;
  readonly #router: Namespace;
  readonly #programs: Programs;
  readonly #birds = new AsyncDisposableStack();
  /** MAC address of the router as the client sees it. */
  #mac = "";
  readonly hosts: Host[] = [];

  private constructor(client: Namespace, router: Namespace, programs: Programs) {
    this.#client = client;
    this.#router = router;
    this.#programs = programs;
  }

  /** Lays the track, and waits until the router has a route to every host. */
  static async lay(
    lab: Lab,
    programs: Programs,
    { drainSeconds = 0 } = {},
  ): Promise<AnycastTrack> {
    const [client, router] = [await lab.namespace("client"), await lab.namespace("router")];
    const track = new AnycastTrack(client, router, programs);
    await lab.join(
      { namespace: client, name: "g0", addresses: [`${CLIENT}/24`] },
      { namespace: router, name: "c0", addresses: ["198.18.0.2/24"] },
    );
    const mac = async (namespace: Namespace, name: string): Promise<string> =>
      JSON.parse(await namespace.ip(`-j link show dev ${name}`))[0].address;
    track.#mac = await mac(router, "c0");
    await router.batch([
      `route add 198.19.0.0/16 via ${CLIENT}`,
      // The client does not answer ARP while its XDP program owns the interface.
      `neighbor replace ${CLIENT} lladdr ${await mac(client, "g0")} dev c0 nud permanent`,
    ]);
    // A drained host still answers pending requests, from an address that is routed elsewhere by then.
    await router.sysctl({
      ...{ "ip_forward": 1, "fib_multipath_hash_policy": 1 },
      ...{ "conf/all/rp_filter": 0, "conf/default/rp_filter": 0 },
    });
    const namespaces: Namespace[] = [];
    for (const n of HOSTS) {
      const namespace = await lab.namespace(`host${n}`);
      await lab.join({ namespace: router, name: `r${n}` }, { namespace, name: "e0" });
      await router.ip(`address add ${ROUTER} peer ${hostAddress(n)}/32 dev r${n}`);
      await namespace.batch([
        `address add ${hostAddress(n)}/24 dev e0`,
        `address add ${SERVICE}/32 dev lo`,
        `route add 198.19.0.0/16 via ${ROUTER}`,
      ]);
      namespaces.push(namespace);
    }
    track.#birds.use(await Bird.start(birdFile("router.conf"), { namespace: router }));
    const said = {
      listen: [`${PORT}=echo`],
      netTiles: 1,
      announced: `${SERVICE}/32`,
      drainSeconds,
    };
    for (const namespace of namespaces) {
      const bird = track.#birds.use(await Bird.start(birdFile("bgp.conf"), { namespace }));
      track.hosts.push({ namespace, bird, service: await Service.start(namespace, said) });
    }
    await track.routed(HOSTS);
    return track;
  }

  /** Waits until the router sends to exactly these hosts, by number. */
  async routed(hosts: readonly number[]): Promise<void> {
    const wanted = hosts.map(hostAddress).toSorted().join();
    const end = performance.now() + PATIENCE_MILLIS;
    let seen = "";
    while (seen !== wanted) {
      if (performance.now() > end) throw new Error(`the router sends to ${seen}, not to ${wanted}`);
      const [route] = JSON.parse(await this.#router.ip(`-j route show ${SERVICE}`));
      const hops: { gateway: string }[] = route === undefined ? [] : route.nexthops ?? [route];
      seen = hops.map(({ gateway }) => gateway).toSorted().join();
    }
  }

  /** Starts a client that sends at a constant rate (`c/client.c`). */
  client(rate: number): LabProcess {
    const { client, object } = this.#programs;
    const asked = [object, "g0", this.#mac, SERVICE, PORT, 1, rate].map(String);
    const command = ["taskset", "--cpu-list", CLIENT_CPU, client, ...asked];
    return this.#client.spawn(command, { stdin: "piped" });
  }

  /** Drops all frames of the link to a host at the router, whose carrier stays; or stops dropping. */
  async silence(host: number, isSilent: boolean): Promise<void> {
    const chain = (hook: string) =>
      `add chain netdev silence ${hook} { type filter hook ${hook} device r${host} priority 0; policy drop; }`;
    const rules = isSilent
      ? ["add table netdev silence", chain("ingress"), chain("egress")]
      : ["delete table netdev silence"];
    await this.#router.run(["nft", rules.join("; ")]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { service } of this.hosts) await service.stop();
    await this.#birds.disposeAsync();
  }
}

function hostAddress(n: number): string {
  return `192.0.2.${10 + n}`;
}
