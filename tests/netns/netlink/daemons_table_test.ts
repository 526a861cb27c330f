// SPDX-License-Identifier: Apache-2.0
/**
 * A table as large and as mixed as the internet's (docs/kernel.md, Routes), loaded into the kernel by BIRD and by
 * `ip -batch` beside a running appliance: it has every route soon after the kernel has, and an audit finds
 * nothing. TEGULA_TABLE_ROUTES=1000000 is a full table; the figures are printed.
 */

import { strict as assert } from "node:assert";
import { setTimeout as delay } from "node:timers/promises";
import { pss } from "../../../bench/mirror_memory.ts";
import { prefixes } from "../../../bench/routes.ts";
import { selfCommand } from "../../../cli/command.ts";
import { formatAddress } from "../../../netbase/route.ts";
import { Appliance, ask, CLIENT, eventually, labTest, type Namespace, pair } from "../lab.ts";
import { Bird } from "../../../bench/bird.ts";

const ROUTES = Number(Deno.env.get("TEGULA_TABLE_ROUTES") ?? 50_000);
/** How long a load, or the mirror's following it, may take. */
const PATIENCE_MILLIS = 120_000;

/** Different prefixes in the mix of lengths of a full table, none of them loopback's. */
function table(): string[] {
  const all = prefixes(ROUTES + ROUTES / 10);
  const texts: string[] = [];
  for (let i = 0; texts.length < ROUTES; i++) {
    if (all[i * 2] >>> 24 === 127) continue;
    texts.push(`${formatAddress(all[i * 2])}/${all[i * 2 + 1]}`);
  }
  return texts;
}

/** An appliance that is asked over its control socket, beside the kernel that it mirrors. */
class Followed {
  readonly #host: Namespace;
  readonly #appliance: Appliance;
  readonly #control: string;
  /** What there is besides the table: prefixes in the kernel, routes in the mirror. */
  #others = { prefixes: 0, routes: 0 };

  private constructor(host: Namespace, appliance: Appliance, control: string) {
    this.#host = host;
    this.#appliance = appliance;
    this.#control = control;
  }

  static async start(host: Namespace): Promise<Followed> {
    const control = `${await Deno.makeTempDir()}/control.sock`;
    const args = ["--interface", "eth0", "--listen", "7=echo", "--control", control];
    const appliance = await Appliance.start(host, args);
    const followed = new Followed(host, appliance, control);
    followed.#others = { prefixes: await prefixesIn(host), ...await followed.#ask() };
    return followed;
  }

  /** Waits until the kernel has `count` routes more than at the start, and then the mirror. */
  async follows(what: string, begun: number, count: number): Promise<void> {
    const patience = { timeoutMs: PATIENCE_MILLIS };
    await eventually(`${what}: ${count} routes in the kernel`, async () => {
      await delay(20);
      return await prefixesIn(this.#host) === this.#others.prefixes + count ? true : undefined;
    }, patience);
    const loaded = performance.now();
    await eventually(`${what}: ${count} routes in the mirror`, async () => {
      const { routes } = await this.#ask();
      return routes === this.#others.routes + count ? true : undefined;
    }, patience);
    const [load, lag] = [loaded - begun, performance.now() - loaded].map(Math.round);
    const audit = JSON.parse(
      await this.#host.run([...selfCommand(), "audit", "-j", "--control", this.#control]),
    );
    const memory = Math.round(pss(this.#appliance.process.pid));
    console.log(
      `${what}: ${count} routes in ${load} ms, in the mirror's counters ${lag} ms later, ` +
        `audit ${audit.divergent} in ${audit.millis} ms, PSS ${memory} MiB`,
    );
    assert.equal(audit.divergent, 0);
    assert.equal(audit.tables.routes.entries, this.#others.routes + count);
  }

  /** The state of the mirror, and how many routes are in it. */
  async #ask(): Promise<{ sync: string; routes: number }> {
    using connection = await Deno.connect({ transport: "unix", path: this.#control });
    await connection.write(new TextEncoder().encode('{"do":"status"}\n{"do":"counters"}\n'));
    await connection.closeWrite();
    const [status, counters] = (await new Response(connection.readable).text()).split("\n");
    return { sync: JSON.parse(status).sync, routes: JSON.parse(counters).netlink.routes };
  }
}

/** Prefixes in the kernel's table main, which may be one with local. */
async function prefixesIn(host: Namespace): Promise<number> {
  const text = await host.run(["cat", "/proc/net/fib_triestat"]);
  return Number(/^Main:[^]*?Prefixes:\s+(\d+)/m.exec(text)![1]);
}

labTest(
  "a table like the internet's is followed as BIRD and as ip load it, audit 0",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const followed = await Followed.start(host);
    const routes = table();
    let begun = performance.now();
    {
      await using _bird = await Bird.start(
        [
          "router id 198.18.0.1;",
          "protocol device {}",
          "protocol kernel { ipv4 { export all; }; }",
          `protocol static { ipv4; ${
            routes.map((each) => `route ${each} via ${CLIENT};`).join("\n")
          } }`,
        ].join("\n"),
        { namespace: host },
      );
      await followed.follows("BIRD", begun, ROUTES);
      begun = performance.now();
    }
    await followed.follows("BIRD ends", begun, 0);
    begun = performance.now();
    await host.batch(routes.map((each) => `route add ${each} via ${CLIENT}`));
    await followed.follows("ip -batch", begun, ROUTES);
    assert.equal((await ask(asker)).text, "hello");
  },
);
