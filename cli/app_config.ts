/**
 * `[apps.NAME]` of the configuration file: what an app is told, and what it is granted by name. An app
 * that is not there has nothing.
 */

import { resolve } from "node:path";
import { z } from "zod";
import { parseRange } from "../tiles/runtime/ports.ts";
import { parsePrefix } from "../tiles/netlink/addresses.ts";
import type { Grants } from "../tiles/runtime/permissions.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";

/** What the configuration says of an app. */
export type AppConfig = ReturnType<typeof toAppConfig>;

/** The sentence where something else is given. */
export function wants(what: string) {
  return {
    error: ({ input }: { input?: unknown }) => `must be ${what}, not ${JSON.stringify(input)}`,
  };
}

/** A list of texts such as `example`. What Deno would not take of them, `right` refuses. */
function names(example: string, right: (text: string) => boolean) {
  const one = wants(`a text such as "${example}"`);
  const list = wants(`a list such as ["${example}"]`);
  return z.array(z.string(one).refine(right, one), list).default([]);
}

const isPath = (text: string) => /^[^\0]+$/.test(text);
const isVariable = (text: string) => /^[^=,\0]+$/.test(text);

/** `HOST` or `HOST:PORT`; IPv6 addresses stand in brackets. */
function isHost(text: string): boolean {
  const [, port = "1"] = /^(?:\[[\da-fA-F:.]+\]|[\w.*-]+)(?::(\d{1,5}))?$/.exec(text) ?? [, "0"];
  return Number(port) >= 1 && Number(port) <= 65_535;
}

const onePorts = wants('a port or a range such as "7" or "0-52", from 0 to 65535');
const mostAnswers = wants("a whole number, 1 or more, or 0 for no limit");

/** Bytes of K, M and G. */
const UNITS = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 } as const;

/** A number of bytes, as `256M`, from `least` to `most`. */
function size(least: string, most: string) {
  const bytes = (text: string) => {
    const [, digits, unit] = /^(\d{1,12})([KMG])$/.exec(text) ?? [];
    return unit === undefined ? NaN : Number(digits) * UNITS[unit as keyof typeof UNITS];
  };
  const right = wants(`a text such as "64M" (K, M or G), from ${least} to ${most}`);
  return z.string(right)
    .refine((text) => bytes(text) >= bytes(least) && bytes(text) <= bytes(most), right)
    .transform(bytes);
}

/** The keys of `[apps.NAME]`. */
export const appSchema = z.strictObject({
  module: z.string(wants("the path of a module")).optional(),
  options: z.record(z.string(), z.unknown(), wants("a table")).default({}),
  send_to: z.array(
    z.string(wants('a text such as "198.51.100.0/24"')).transform((text, context) => {
      const prefix = parsePrefix(text);
      if (prefix !== null) return prefix;
      const message = `'${text}' is no IPv4 address or prefix, such as 198.51.100.0/24`;
      context.addIssue({ code: "custom", message });
      return z.NEVER;
    }),
    wants('a list such as ["198.51.100.0/24"]'),
  ).default([]),
  refuse_sources: z.array(
    z.string(onePorts).transform((text, context) => {
      const range = parseRange(text, 0);
      if (range !== null) return range;
      context.addIssue({ code: "custom", message: onePorts.error({ input: text }) });
      return z.NEVER;
    }),
    wants('a list such as ["7", "0-52"]'),
  ).optional(),
  most_per_second: z.int(mostAnswers).min(0, mostAnswers).optional(),
  read: names("./zones", isPath),
  write: names("/var/lib/tegula/my_app", isPath),
  env: names("NAME", isVariable),
  net: names("192.0.2.1:443", isHost),
  clock: z.boolean(wants("true or false")).default(false),
  keep: z.boolean(wants("true or false")).default(false),
  memory: size("64M", "1024G").optional(),
  state: size("4K", "1G").optional(),
}, wants("a table"));

/** Makes sense of what `appSchema` read, relative paths counted from `folder`. */
export function toAppConfig(parsed: z.infer<typeof appSchema>, folder: string) {
  const { module, options, send_to: sendTo, read, write, ...rest } = parsed;
  const { refuse_sources: refuseSources, most_per_second: mostPerSecond, ...limits } = rest;
  const { memory, state: stateBytes, ...others } = limits;
  const paths = (all: string[]) => all.map((path) => resolve(folder, path));
  const grants: Grants = { ...others, read: paths(read), write: paths(write) };
  return {
    /** Name of an app that ships, or the path of a module; left out, the app's own name says which. */
    module: module === undefined || isName(module) ? module : resolve(folder, module),
    options: locateAll(options, folder) as AppPlan["options"],
    sendTo,
    ...(refuseSources !== undefined && { refuseSources }),
    ...(mostPerSecond !== undefined && { mostPerSecond }),
    ...(memory !== undefined && { memoryMib: Math.floor(memory / UNITS.M) }),
    ...(stateBytes !== undefined && { stateBytes }),
    grants,
  };
}

/** What an app has of which the configuration says nothing. */
export const NO_APP_CONFIG = toAppConfig(appSchema.parse({}), "");

/** Whether a module is named and not the path of a file, which has its folder or its ending. */
function isName(module: string): boolean {
  return /^[^./]+$/.test(module);
}

/** A path that begins with ./ or ../ counts from the file that it stands in. */
export function locate(text: string, folder: string): string {
  return /^\.\.?\//.test(text) ? resolve(folder, text) : text;
}

/** The same for every text in a value, however deep. What JSON has no word for becomes text. */
function locateAll(value: unknown, folder: string): unknown {
  if (typeof value === "string") return locate(value, folder);
  if (Array.isArray(value)) return value.map((each) => locateAll(each, folder));
  if (value instanceof Date) return value.toISOString();
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (typeof value !== "object" || value === null) return value;
  const all = Object.entries(value);
  return Object.fromEntries(all.map(([key, each]) => [key, locateAll(each, folder)]));
}
