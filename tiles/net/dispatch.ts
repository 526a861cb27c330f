/**
 * Which app answers on a port, and which ports an app may send from. Fixed when the tile starts.
 *
 * A served port is a *service*, a small number; 0 stands for none. Several apps may share one, which
 * then takes the datagrams of a flow always to the same of them.
 */

import { NET } from "../runtime/counters.ts";
import * as flow from "./flow.ts";

// An own constant, see frame.ts.
const { flowHash } = flow;
const NOT_SERVED = NET.index.rx_drop_no_app;
/** Instead of an app: there are several. */
const SHARED = -32768;

/** A kernel socket behind a served port, as main tells a net tile of it. */
export interface UdpSocketSetup {
  readonly fd: number;
  readonly port: number;
  /** Whether this tile receives on it; every tile may send on all. */
  readonly receive: boolean;
}

/** The ports of all apps. */
export class Dispatch {
  /** For each port what `app` says where that is one app, or none. */
  readonly #alone = new Int16Array(65_536).fill(-NOT_SERVED);
  /** Service of each port. */
  readonly #services = new Uint16Array(65_536);
  /** Where each service's apps begin in `#members`, and how many they are. */
  readonly #first: Int32Array;
  readonly #count: Int32Array;
  readonly #members: Int32Array;
  readonly #fds: Int32Array;
  readonly #served: Uint8Array;
  readonly #width: number;

  constructor(
    apps: readonly { readonly ports: readonly number[] }[],
    sockets: readonly UdpSocketSetup[],
  ) {
    const ports = [...new Set(apps.flatMap((app) => app.ports))];
    this.#width = ports.length + 1;
    this.#first = new Int32Array(this.#width);
    this.#count = new Int32Array(this.#width);
    this.#fds = new Int32Array(this.#width).fill(-1);
    this.#served = new Uint8Array(this.#width * apps.length);
    ports.forEach((port, i) => this.#services[port] = i + 1);
    for (const { fd, port } of sockets) this.#fds[this.#services[port]] = fd;
    apps.forEach((app, index) => {
      for (const port of app.ports) this.#served[index * this.#width + this.#services[port]] = 1;
    });
    const members: number[] = [];
    for (const port of ports) {
      const service = this.#services[port];
      this.#first[service] = members.length;
      for (let index = 0; index < apps.length; index++) {
        if (this.serves(index, port)) members.push(index);
      }
      this.#count[service] = members.length - this.#first[service];
      this.#alone[port] = this.#count[service] > 1 ? SHARED : members[this.#first[service]];
    }
    this.#members = Int32Array.from(members);
  }

  /**
   * Index of the app for a datagram from `source` with `ports`; the negated number of the counter to
   * move when the port is not served.
   */
  app(source: number, ports: number): number {
    const app = this.#alone[ports & 0xffff];
    return app === SHARED ? this.#pick(source, ports) : app;
  }

  #pick(source: number, ports: number): number {
    const service = this.#services[ports & 0xffff];
    const pick = (flowHash(source, 0, ports) >>> 1) % this.#count[service];
    return this.#members[this.#first[service] + pick];
  }

  /** Whether app `index` serves `port`, and so may send from it. */
  serves(index: number, port: number): boolean {
    return this.#served[index * this.#width + this.#services[port]] === 1;
  }

  /** The kernel socket of a served port, -1 when another program has it. */
  fd(port: number): number {
    return this.#fds[this.#services[port]];
  }
}
