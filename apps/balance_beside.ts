// SPDX-License-Identifier: Apache-2.0
/**
 * The slow side of `balance.ts`: reads backends from a file, looks up their names, and checks their
 * health (`backends_file`, `resolve` and `check` in `docs/apps.md`). Later errors of the file or a
 * name are logged, and the backends stay unchanged.
 */

import { lookup } from "node:dns/promises";
import type { Beside, BesideContext } from "../tiles/app/contract.ts";
import { type Mail, parseBackends, probingOf } from "./balance.ts";
import { numberOption, wholeOption } from "./options.ts";

/** The interval of polling the file. A watch would end when the file is replaced, or need its whole folder. */
const LOOK_MILLIS = 1000;
const CHECK_MILLIS = 2000;

/** A configured backend, by address. */
interface Listed {
  readonly address: string;
}

/** Makes the slow side of the balancer. Throws errors of its options, its file or its names. */
export default async function create(context: BesideContext): Promise<Beside> {
  const { options, mailbox, log } = context;
  const lookUps = { usual: 30, least: 1, most: 86_400 };
  const resolveMillis = 1000 * numberOption(options, "resolve", lookUps);
  const { probeSeconds, probeFailures } = probingOf(options);
  const checkPort = wholeOption(options, "check_port", { usual: 0, least: 0, most: 0xffff });
  const { backends_file: file, check, resolve } = options;
  if (file !== undefined && (typeof file !== "string" || options.backends !== undefined)) {
    throw new TypeError("options.backends_file: must be the path of a file, in place of backends");
  }
  if (check !== undefined && (typeof check !== "string" || !/^(tcp$|\/)/.test(check))) {
    throw new TypeError("options.check: must be tcp, or the path of an HTTP request: /healthz");
  }
  const post = (mail: Mail) => mailbox.post(new TextEncoder().encode(JSON.stringify(mail)));
  const read = () => readBackends(file, context);

  let backends = await read();
  let stamp = await stampOf(file);
  let resolvedAt = performance.now();
  let said = "";
  /** Whether the app has these backends: its mailbox may be full. */
  let isTold = false;
  const tell = () => isTold ||= post({ backends });
  const look = async () => {
    tell();
    const now = await stampOf(file);
    const isDue = resolve !== undefined && performance.now() - resolvedAt >= resolveMillis;
    if (now === stamp && !isDue) return;
    [stamp, resolvedAt] = [now, performance.now()];
    try {
      const next = await read();
      said = "";
      if (JSON.stringify(next) === JSON.stringify(backends)) return;
      backends = next;
      log(`${backends.length} backends`);
      isTold = false;
      tell();
    } catch (error) {
      const { message } = error as Error;
      if (message !== said) log(`the backends are unchanged: ${message}`);
      said = message;
    }
  };
  const failures = new Map<string, number>();
  const checkAll = async () => {
    const names = backends.map(({ address }) => address);
    await Promise.all(names.map(async (name) => {
      const isWell = await passes(name, check as string, checkPort);
      failures.set(name, isWell ? 0 : (failures.get(name) ?? 0) + 1);
    }));
    // Post each time, as the app may have other backends by now.
    post({ failing: names.filter((name) => failures.get(name)! >= probeFailures) });
  };
  return {
    begin() {
      if (file !== undefined || resolve !== undefined) {
        void repeat(look, LOOK_MILLIS);
      }
      if (check !== undefined) void repeat(checkAll, 1000 * probeSeconds);
    },
  };
}

async function repeat(what: () => Promise<void>, millis: number): Promise<void> {
  for (;;) {
    await what();
    await new Promise((resolve) => setTimeout(resolve, millis));
  }
}

/** The backends of the file, or of the options, with addresses for names. */
async function readBackends(
  file: unknown,
  { options, parseAddress }: BesideContext,
): Promise<Listed[]> {
  const list = typeof file === "string"
    ? JSON.parse(await Deno.readTextFile(file))
    : options.backends;
  if (!Array.isArray(list)) throw new TypeError(`${file ?? "options.backends"}: must be a list`);
  const all = await Promise.all(list.map(async (value) => {
    const table: Listed = typeof value === "string" ? { address: value } : value;
    const [, host, port] = /^(.+):(\d+)$/.exec(String(table?.address)) ?? [];
    const isName = options.resolve !== undefined && host !== undefined &&
      parseAddress(host) === null;
    if (!isName) return [table];
    const found = await lookup(host, { all: true, family: 4 });
    return found.map(({ address }) => ({ ...table, address: `${address}:${port}` }))
      .toSorted((one, other) => one.address < other.address ? -1 : 1);
  }));
  parseBackends(all.flat(), parseAddress);
  return all.flat();
}

/** A text that changes with the file. */
async function stampOf(file: unknown): Promise<string> {
  if (typeof file !== "string") return "";
  try {
    const { ino, size, mtime, ctime } = await Deno.stat(file);
    return [ino, size, mtime?.getTime(), ctime?.getTime()].join(" ");
  } catch (error) {
    return String(error);
  }
}

async function passes(name: string, check: string, checkPort: number): Promise<boolean> {
  const [hostname, own] = name.split(":");
  const port = checkPort || Number(own);
  const signal = AbortSignal.timeout(CHECK_MILLIS);
  try {
    if (check === "tcp") {
      (await Deno.connect({ hostname, port, signal })).close();
      return true;
    }
    const response = await fetch(`http://${hostname}:${port}${check}`, {
      signal,
      redirect: "manual",
    });
    await response.body?.cancel();
    return response.status < 400;
  } catch {
    return false;
  }
}
