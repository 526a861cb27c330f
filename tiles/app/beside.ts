// SPDX-License-Identifier: Apache-2.0
/**
 * Hosts the slow side of an app, in a process of its own beside that of the app's tile. Unlike a tile it runs
 * in Deno's event loop and keeps what it is granted. It takes its mail between other events.
 */

import { bounded, Level, type Log } from "../runtime/log.ts";
import { Address, Prefix } from "./address.ts";
import type { AppContext, Beside, BesideContext, BesideFactory } from "./contract.ts";
import type { MetricsWriter } from "./regions.ts";

/** What a slow side is told. Plain data. */
export interface BesideSetup {
  /** URL of its module. */
  readonly module: string;
  /** Where it gets listening sockets. */
  readonly tcp: readonly { readonly address: string; readonly port: number }[];
}

/** Makes the slow side of a module that is loaded. */
export async function makeBeside(
  module: { default?: unknown },
  { name, ports, options }: Pick<AppContext, "name" | "ports" | "options">,
  { mailbox, listeners, metrics, log }: Pick<BesideContext, "mailbox" | "listeners"> & {
    readonly metrics: MetricsWriter;
    readonly log: Log;
  },
): Promise<Beside> {
  const { default: create } = module;
  if (typeof create !== "function") {
    throw new TypeError("its module exports no function as its default");
  }
  const say = bounded(log);
  const made = await (create as BesideFactory)({
    ...{ name, ports, options, listeners },
    metric: (name, kind, labels) => metrics.metric(name, kind, labels),
    histogram: (name, bounds, labels) => metrics.histogram(name, bounds, labels),
    mailbox: { post: (bytes) => mailbox.post(bytes) },
    log: (...said) => say(Level.info, ...said),
    parseAddress: (text) => Address.parse(text),
    parsePrefix: (text) => Prefix.parse(text),
  });
  if (typeof made === "object" && made !== null) return made;
  throw new TypeError(`what its default export makes is ${typeof made}, no object`);
}
