// SPDX-License-Identifier: Apache-2.0
/**
 * The configuration of a run: the file (TOML) and the command line's options, checked before
 * anything is changed. Errors name the place and the allowed values.
 */

import { isIPv4, isIPv6 } from "node:net";
import { dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parse as parseToml, TomlError } from "smol-toml";
import { z } from "zod";
import { APPS } from "../apps/registry.ts";
import { parseAddress, parsePrefix } from "../netbase/route.ts";
import { MARKER_TABLE } from "../tiles/netlink/rtnetlink.ts";
import {
  countPorts,
  joinRanges,
  MOST_PORTS_SERVED,
  parseRange,
  type PortRange,
  portsOf,
  portsText,
  rangeText,
} from "../tiles/runtime/plan.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { configText, excerpt, fileTrouble, type Given, messageOf, UserError } from "./command.ts";
import { lineOf } from "./toml_lines.ts";

/** How frames are received: by the best mode that works, by AF_XDP or nothing, by the kernel's sockets. */
const PROVIDERS = ["auto", "xdp", "socket"] as const;
/** Whether Tegula or the NIC verifies UDP checksums of received datagrams. */
const CHECKSUMS = ["verify", "nic"] as const;
/** The most instances that may share a port. */
const MAX_INSTANCES = 64;
const MAX_NET_TILES = 64;
/** The longest name of an interface: IFNAMSIZ of linux/if.h without the final zero. */
const LONGEST_INTERFACE_NAME = 15;

/** Ports, the app that answers on them, and how many of its instances share each. */
interface Listen {
  /** UDP ports, 1 to 65535. */
  readonly ports: PortRange;
  /** Name of an app that ships, or the path of a module. */
  readonly app: string;
  /** Instances that share the port, 1 to {@linkcode MAX_INSTANCES}. */
  readonly instances: number;
  /** Whether the app runs inside the net tiles instead of in processes of its own. */
  readonly inline: boolean;
}

export type RunConfig = Readonly<Awaited<ReturnType<typeof readConfig>>>;

/**
 * Parses `PORTS=APP`, `PORTS=APP*INSTANCES` or `PORTS=APP@inline`. PORTS is one port or `FIRST-LAST`, for
 * example `7=echo`, `5300-5363=echo` or `5353=./my_service.ts*4`. Throws UserError.
 */
export function parseListen(text: string): Listen {
  const parts = /^([^=]*)=(.*?)(?:\*([^*/]*)|@([^@/]*))?$/s.exec(text) ?? [];
  const [, range = "", app, instances = "1", placement] = parts;
  const ports = parseRange(range, 1);
  const turned = range.split("-").reverse().join("-");
  const high = /^\d+(-\d+)?$/.test(range) && range.split("-").find((port) => Number(port) > 65_535);
  if (high) {
    throw new UserError(
      `${quoted(text)}: a port is at most 65535, not ${excerpt(high)}`,
    );
  }
  if (
    !app || (ports ?? parseRange(turned, 1)) === null ||
    !isNumberWithin(instances, 1, MAX_INSTANCES) ||
    (placement !== undefined && placement !== "inline")
  ) {
    throw new UserError(
      `${quoted(text)} is not PORT=APP, for example 7=echo, FIRST-LAST=APP, for example ` +
        "5300-5363=echo, PORT=APP*N " +
        `or PORT=APP@inline, with ports from 1 to 65535 and N instances, 1 to ${MAX_INSTANCES}`,
    );
  }
  if (ports === null) {
    throw new UserError(
      `${quoted(text)} has its ports in the wrong order: write ` +
        `${excerpt(`${turned}=${app}`)}`,
    );
  }
  return { ports, app, instances: Number(instances), inline: placement === "inline" };
}

/** Formats ports and apps with joined ranges: `7=echo 5300-5363=dns*2`, and the apps' own ports. */
export function listenText(listen: readonly Listen[], apps: readonly AppPlan[] = []): string {
  const byApp = Map.groupBy(
    listen,
    ({ app, instances, inline }) =>
      `${app}${inline ? "@inline" : instances > 1 ? `*${instances}` : ""}`,
  );
  const own = [...Map.groupBy(apps, ({ app }) => app)].map(([app, instances]) => {
    const ranges = joinRanges(instances.flatMap(({ ownPorts = [] }) => ownPorts));
    return ranges.length > 0 ? ` (own ports of ${app}: ${ranges.map(rangeText).join(", ")})` : "";
  });
  return [...byApp].flatMap(([app, all]) =>
    joinRanges(all.map(({ ports }) => ports)).map((range) => `${rangeText(range)}=${app}`)
  ).join(" ") + own.join("");
}

/** Whether `text` is a plain decimal number from `least` to `most`. */
function isNumberWithin(text: string, least: number, most: number): boolean {
  return /^[0-9]{1,5}$/.test(text) && Number(text) >= least && Number(text) <= most;
}

/** Whether `text` is `ADDRESS:PORT`, `[IPV6]:PORT` or `localhost:PORT`. */
function isPlace(text: string): boolean {
  const [, v6, name = "", port = ""] = /^(?:\[(.*)\]|([^:]*)):(\d+)$/.exec(text) ?? [];
  const isAddress = v6 === undefined ? name === "localhost" || isIPv4(name) : isIPv6(v6);
  return isAddress && isNumberWithin(port, 1, 65_535);
}

/** A table of `[apps]`, as written in the file. */
type AppTable = z.input<typeof appSchema>;

/** A value in TOML syntax, truncated if it is long. */
function quoted(value: unknown): string {
  return excerpt(String(JSON.stringify(value)));
}

/** The error for a value that is not `what`. */
export function wants(what: string) {
  return {
    error: ({ input }: { input?: unknown }) => `must be ${what}, not ${quoted(input)}`,
  };
}

/** A list of texts like `example`. `right` rejects values that Deno's permission flags cannot express. */
function names(example: string, right: (text: string) => boolean) {
  const one = wants(`a text such as "${example}"`);
  const list = wants(`a list such as ["${example}"]`);
  return z.array(z.string(one).refine(right, one), list).default([]);
}

const isPath = (text: string) => /^[^\0]+$/.test(text);
const isVariable = (text: string) => /^[^=,\0]+$/.test(text);

/** The most listening sockets of one slow side. */
const MOST_TCP = 64;

/** `HOST` or `HOST:PORT`, IPv6 addresses in brackets. */
function isHost(text: string): boolean {
  const [, port = "1"] = /^(?:\[[\da-fA-F:.]+\]|[\w.*-]+)(?::(\d{1,5}))?$/.exec(text) ?? [, "0"];
  return Number(port) >= 1 && Number(port) <= 65_535;
}

const flag = z.boolean(wants("true or false"));

/** A text that `parse` converts. If it is not as `wanted`, `parse` returns null, or throws the problem. */
function parsed<T>(wanted: ReturnType<typeof wants>, parse: (text: string) => T | null) {
  return z.string(wanted).transform((text, context) => {
    let message = wanted.error({ input: text });
    try {
      const value = parse(text);
      if (value !== null) return value;
    } catch (error) {
      message = messageOf(error);
    }
    context.addIssue({ code: "custom", message });
    return z.NEVER;
  });
}

/** A list of ports from `least` on, and of ranges. */
function portRanges(least: number, port: string, ports: string) {
  const one = wants(`a port or a range such as "${port}" or "${ports}", from ${least} to 65535`);
  return z.array(
    parsed(one, (text) => parseRange(text, least)),
    wants(`a list such as ["${port}", "${ports}"]`),
  );
}

/** Limits of the depth of an app's links: the least fits a datagram of any size, the most takes 96 MiB in each net tile. */
const [LEAST_DEPTH, MOST_DEPTH] = [64, 16_384];
const depth = wants(`a power of two from ${LEAST_DEPTH} to ${MOST_DEPTH}`);
const mostAnswers = wants("a whole number, 1 or more, or 0 for no limit");

const UNITS = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 } as const;

/** A number of bytes from `least` to `most`, for example `256M`. */
function size(least: string, most: string) {
  const bytes = (text: string) => {
    const [, digits, unit] = /^(\d{1,12})([KMG])$/.exec(text) ?? [];
    return unit === undefined ? NaN : Number(digits) * UNITS[unit as keyof typeof UNITS];
  };
  return parsed(wants(`a text such as "64M" (K, M or G), from ${least} to ${most}`), (text) => {
    const value = bytes(text);
    return value >= bytes(least) && value <= bytes(most) ? value : null;
  });
}

/** The keys of `[apps.NAME]`, with their descriptions for tegula.toml(5). */
export const appSchema = z.strictObject({
  module: z.string(wants("the path of a module")).optional()
    .describe("the module, or the name of an app that ships; by default NAME"),
  options: z.record(z.string(), z.unknown(), wants("a table")).default({})
    .describe("a table of the app's own options"),
  send_to: z.array(
    parsed(wants('a text such as "198.51.100.0/24"'), (text) => {
      const prefix = parsePrefix(text);
      if (prefix !== null) return prefix;
      const what = "is not an IPv4 address or prefix, for example 198.51.100.0/24";
      throw new UserError(`'${excerpt(text)}' ${what}`);
    }),
    wants('a list such as ["198.51.100.0/24"]'),
  ).default([]).describe("prefixes to which it may send unsolicited datagrams"),
  depth: z.int(depth).min(LEAST_DEPTH, depth).max(MOST_DEPTH, depth)
    .refine((value) => (value & (value - 1)) === 0, depth).optional()
    .describe("the most datagrams that wait for it, or from it, in each net tile; 1024 by default"),
  own_ports: portRanges(1, "20000", "20000-20063").default([]).describe(
    "further ports, split among its instances: only the owner of a port receives there and sends from it",
  ),
  refuse_sources: portRanges(0, "7", "0-52").optional().describe(
    "source ports that get no answer; by default the well-known ones except 53 and 123",
  ),
  most_per_second: z.int(mostAnswers).min(0, mostAnswers).optional()
    .describe("answers a second to one address and port; 0 (default): no limit"),
  read: names("./zones", isPath).describe("files and folders that it may read"),
  write: names("/var/lib/tegula/my_app", isPath).describe("files and folders that it may write"),
  env: names("NAME", isVariable).describe("environment variables that it may read"),
  net: names("192.0.2.1:443", isHost)
    .describe("hosts and ports that it may connect to by TCP, and addresses where it may listen"),
  beside: z.string(wants('the path of a module such as "./beside.ts"')).optional()
    .describe("the module of its slow side, which runs in a second process with an event loop"),
  tcp: names("192.0.2.1", (text) => isIPv4(text) || isIPv6(text))
    .describe("addresses where its slow side accepts TCP on its ports"),
  clock: flag.default(false)
    .describe("whether it may read the state of the kernel's clock; false by default"),
  packet_times: flag.optional().describe(
    "whether each datagram has its own timestamp, not its burst's; by default only for ntp",
  ),
  keep: flag.default(false)
    .describe("whether it keeps its grants after its start; false by default"),
  memory: size("64M", "1024G").optional()
    .describe(
      "the limit of its own memory, above which it is restarted: 64M or more, 256M by default",
    ),
  state: size("4K", "1G").optional()
    .describe("memory that its successor finds unchanged, 4K to 1G; none by default"),
}, wants("a table"));

/** The table of an app with absolute paths: relative ones begin at `folder`. */
function appIn(folder: string, table: AppTable): AppTable {
  const { module, beside, read = [], write = [], options } = table;
  const whole = (path: string) => resolve(folder, path);
  return {
    ...table,
    // The name of an app that ships has neither a slash nor a dot.
    ...(module !== undefined && { module: /[./]/.test(module) ? whole(module) : module }),
    ...(beside !== undefined && { beside: whole(beside) }),
    ...{ read: read.map(whole), write: write.map(whole) },
    ...(options !== undefined && { options: locateAll(options, folder) as AppTable["options"] }),
  };
}

/** Resolves a path that begins with ./ or ../ against `folder`; returns any other text as it is. */
export function locate(text: string, folder: string): string {
  return /^\.\.?\//.test(text) ? resolve(folder, text) : text;
}

/** Does so for every text in a value, at any depth. Values that JSON lacks become text. */
function locateAll(value: unknown, folder: string): unknown {
  if (typeof value === "string") return locate(value, folder);
  if (Array.isArray(value)) return value.map((each) => locateAll(each, folder));
  if (value instanceof Date) return value.toISOString();
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (typeof value !== "object" || value === null) return value;
  const all = Object.entries(value);
  return Object.fromEntries(all.map(([key, each]) => [key, locateAll(each, folder)]));
}

const interfaceName = wants("the name of an interface, without spaces and slashes");
const KERNEL_TABLES: readonly number[] = [0, 253, 254, 255];
const SHORTEST_PREFIX = 8;

const announced = wants(
  `an IPv4 address, or a prefix without host bits, such as "203.0.113.53/32" (/${SHORTEST_PREFIX} to /32)`,
);
const markerTable = wants(
  "the number of a routing table of its own, from 1 to 4294967295 and none of the kernel's " +
    `(253 to 255), for example ${MARKER_TABLE}`,
);

export const announceSchema = z.strictObject({
  addresses: z.array(
    parsed(announced, (text) => {
      const prefix = parsePrefix(text);
      const length = Number(text.split("/")[1] ?? 32);
      const address = parseAddress(text.split("/")[0]);
      const isExact = prefix !== null && prefix.address === (address | 0);
      return isExact && length >= SHORTEST_PREFIX ? { address, length } : null;
    }),
    wants('a list such as ["203.0.113.53/32"]'),
  ).min(1, {
    error: 'must name an address, for example ["203.0.113.53/32"], or leave [announce] out',
  })
    .refine(
      (all) =>
        new Set(all.map(({ address, length }) => `${address}/${length}`)).size === all.length,
      { error: "must name each address once" },
    ).describe(
      'IPv4 addresses or prefixes, for example ["203.0.113.53/32"]; the addresses are on lo',
    ),
  table: z.int(markerTable).min(1, markerTable).max(2 ** 32 - 1, markerTable)
    .refine((table) => !KERNEL_TABLES.includes(table), markerTable).default(MARKER_TABLE)
    .describe("the routing table of the markers; it must not be used otherwise"),
}, wants("a table"));

/** What is announced while Tegula is ready: prefixes, addresses in host order, and the markers' table. */
export type Announce = z.output<typeof announceSchema>;

const metricsPlace = wants(
  "ADDRESS:PORT, for example 127.0.0.1:9464, localhost:9464 or [::1]:9464; a port is at most 65535",
);
const firstUser = wants("the number of the first of 64 unused users");
const drainSeconds = wants("a number of seconds, from 0 to 3600");
const netTiles = wants(`a whole number from 1 to ${MAX_NET_TILES}`);

/** The keys of the file. Keys without an option of the same name have a description. */
export const configSchema = z.strictObject({
  interfaces: z.array(
    z.string(interfaceName).regex(/^[^\s/]+$/, interfaceName).max(
      LONGEST_INTERFACE_NAME,
      wants(`the name of an interface, at most ${LONGEST_INTERFACE_NAME} characters`),
    ),
    wants('a list such as ["eth0"]'),
  ).default([]).describe('the interfaces where frames are received, for example ["eth0"]'),
  apps: z.record(z.string(), appSchema, wants("tables such as [apps.dns]")).default({})
    .describe("options and grants of the app NAME"),
  listen: z.array(
    parsed(wants('a text such as "7=echo"'), parseListen),
    wants('a list such as ["7=echo"]'),
  ).default([]).describe(
    'the ports, and the apps that answer, as for --listen: for example ["7=echo", "53=dns*2"]',
  ),
  provider: z.enum(PROVIDERS, wants(`one of ${PROVIDERS.join(", ")}`)).optional(),
  net_tiles: z.int(netTiles).min(1, netTiles).max(MAX_NET_TILES, netTiles).optional(),
  checksums: z.enum(CHECKSUMS, wants(`one of ${CHECKSUMS.join(", ")}`)).optional(),
  busy_poll: flag.optional(),
  dispatcher: flag.optional(),
  control: z.string(wants('the path of a socket, or "none"')).optional(),
  drain_seconds: z.number(drainSeconds).min(0, drainSeconds).max(3600, drainSeconds).optional()
    .describe("how long it drains after SIGTERM before it ends; by default 0"),
  user: z.int(firstUser).min(1, firstUser).max(2 ** 31 - 64, firstUser).optional()
    .describe(
      "the first of 64 user numbers for its processes, if it runs as root; they must be unused",
    ),
  metrics: z.string(metricsPlace).refine(isPlace, metricsPlace).optional(),
  announce: announceSchema.optional()
    .describe("prefixes to announce to routers while it is ready, by markers in a table"),
});

type FileConfig = z.output<typeof configSchema>;

/** Sections of the file with other keys. */
const SECTIONS: Readonly<Record<string, z.ZodObject>> = {
  apps: appSchema,
  announce: announceSchema,
};

/** The options that override or add to the file, and --config, which names the file. */
export const CONFIG_OPTIONS = {
  interface: {
    type: "string",
    multiple: true,
    value: "IF",
    help: "an interface to take frames from; may be repeated. By default, without --config, the " +
      "interfaces of the default route, which the log names",
  },
  listen: {
    type: "string",
    multiple: true,
    value: "PORT=APP",
    help:
      `a UDP port and the app that answers on it: ${
        Object.keys(APPS).join(", ")
      }, or the path of a ` +
      "module; may be repeated. FIRST-LAST=APP: all ports of a range; PORT=APP*N: N instances share the " +
      `port by flow; PORT=APP@inline: inside the net tiles. At most ${MOST_PORTS_SERVED} ports in all`,
  },
  provider: {
    type: "string",
    value: PROVIDERS.join("|"),
    help:
      "auto (default): zero-copy, native copy, generic mode, else the kernel's sockets; xdp: AF_XDP " +
      "or nothing; socket: the kernel's sockets only",
  },
  "net-tiles": {
    type: "string",
    value: "N",
    help: "number of net tiles; by default the number of queues, at most the cores less one",
  },
  checksums: {
    type: "string",
    value: CHECKSUMS.join("|"),
    help: "of received UDP: verify (default), or nic, to trust the NIC",
  },
  "busy-poll": {
    type: "boolean",
    help:
      "make net tiles poll the drivers of their AF_XDP sockets instead of waiting for interrupts",
  },
  dispatcher: {
    type: "boolean",
    help: "attach beside other XDP programs, by libxdp's dispatcher",
  },
  control: {
    type: "string",
    value: "PATH",
    help: "the control socket, for 'tegula show --live' and others, or none; by default " +
      "/run/tegula/IF.sock, with the first interface",
  },
  metrics: {
    type: "string",
    value: "ADDRESS:PORT",
    help:
      "serve the metrics for Prometheus there, for example 127.0.0.1:9464 or [::1]:9464; by default " +
      "not at all",
  },
  config: {
    type: "string",
    value: "FILE",
    help: "read the same from a file, and also options and grants of apps: see tegula.toml(5)",
  },
} as const;

/** The key in the file that corresponds to an option. */
export function keyOf(option: string): string {
  return option === "interface" ? "interfaces" : option.replace("-", "_");
}

/**
 * Reads the file and the options. Options override the file, except that interfaces and ports are
 * added to the file's. The path of an app that begins with `./` or `../` is relative to the file's
 * folder, or, on the command line, to the working directory. Throws UserError.
 */
export async function readConfig(
  { config: path, ...values }: Partial<Given<typeof CONFIG_OPTIONS>["values"]>,
) {
  const folder = dirname(path ?? "");
  const written = path === undefined ? {} : await readFile(path);
  const inFile = checked(written, path);
  const options = checked(Object.fromEntries(
    Object.entries(values).map(([option, value]) => [
      keyOf(option),
      option === "net-tiles" && /^\d+$/.test(String(value)) ? Number(value) : value,
    ]),
  ));
  const { net_tiles: netTiles, busy_poll: busyPoll = false, ...said } = { ...inFile, ...options };
  const interfaces = [...inFile.interfaces, ...options.interfaces];
  checkRepeated({ interfaces, listen: [...inFile.listen, ...options.listen] }, path, inFile);
  return {
    provider: "auto" as const,
    checksums: "verify" as const,
    dispatcher: false,
    ...said,
    busyPoll,
    /** Path of the configuration file; null without one. */
    file: path ?? null,
    ...(netTiles !== undefined && { netTiles }),
    interfaces,
    listen: [
      ...inFile.listen.map((one) => ({ ...one, app: locate(one.app, folder) })),
      ...options.listen.map((one) => ({ ...one, app: locate(one.app, "") })),
    ],
    apps: Object.fromEntries(
      Object.entries((written.apps ?? {}) as Record<string, AppTable>)
        .map(([name, table]) => [locate(name, folder), appIn(folder, table)]),
    ),
  };
}

/** Checks that a configuration can be run: it has a port, and no options contradict each other. Throws UserError. */
export function checkConfig(config: RunConfig): void {
  if (config.listen.length === 0) {
    throw new UserError(
      "no port to answer on: give at least one --listen PORT=APP, for example 7=echo",
    );
  }
  if (config.provider === "socket" && (config.busyPoll || config.dispatcher)) {
    throw new UserError(
      "--provider socket does not use AF_XDP, which --busy-poll and --dispatcher need",
    );
  }
}

/**
 * Throws UserError for an interface or a port that is given twice, and for too many ports. Entries
 * of `file` come first, and errors name their place there.
 */
function checkRepeated(
  { interfaces, listen }: Pick<FileConfig, "interfaces" | "listen">,
  file: string | undefined,
  inFile: FileConfig,
): void {
  const placed = (...key: readonly PropertyKey[]) => `${placeOf(file!, key)}: `;
  const at = interfaces.findIndex((name, i) => interfaces.indexOf(name) < i);
  if (at >= 0) {
    const place = at < inFile.interfaces.length ? placed("interfaces", at) : "";
    throw new UserError(`${place}interface ${interfaces[at]} is given twice`);
  }
  const ranges: (readonly [range: PortRange, place: () => string])[] = [
    ...listen.map(({ ports }, i) =>
      [ports, () => i < inFile.listen.length ? placed("listen", i) : ""] as const
    ),
    ...Object.entries(inFile.apps).flatMap(([app, { own_ports }]) =>
      own_ports.map((ports) => [ports, () => placed("apps", app, "own_ports")] as const)
    ),
  ];
  const taken = new Set<number>();
  let firstTooMany: (() => string) | undefined;
  for (const [range, place] of ranges) {
    const ports = portsOf([range]);
    const twice = ports.filter((port) => taken.has(port));
    if (twice.length > 0) {
      throw new UserError(`${place()}${portsText(twice)} given twice: one port, one app`);
    }
    for (const port of ports) taken.add(port);
    if (taken.size > MOST_PORTS_SERVED) firstTooMany ??= place;
  }
  if (firstTooMany === undefined) return;
  throw new UserError(
    `${firstTooMany()}${taken.size} ports are too many: one Tegula serves at most ` +
      `${MOST_PORTS_SERVED}`,
  );
}

/** Reads a file of TOML. Throws UserError. */
async function readFile(path: string): Promise<Record<string, unknown>> {
  try {
    return parseToml(await configText(path));
  } catch (error) {
    if (!(error instanceof TomlError)) {
      throw new UserError(
        `cannot read the configuration file ${fileTrouble(error)}`,
      );
    }
    const reason = error.message.split("\n")[0].replace("Invalid TOML document: ", "");
    throw new UserError(`${path}:${error.line}:${error.column}: ${reason}`);
  }
}

/** Checks the content of the file at `path`, or the options if there is no path. Throws UserError. */
function checked(said: unknown, path?: string): FileConfig {
  const { data, error } = configSchema.safeParse(said);
  if (data !== undefined) return data;
  const [issue] = error.issues;
  const option = Object.keys(CONFIG_OPTIONS).find((each) => keyOf(each) === issue.path[0]);
  const sentence = path === undefined
    ? `--${option}: ${issue.message}`
    : issue.code !== "unrecognized_keys"
    ? `${placeOf(path, issue.path)}: ${issue.message}`
    : `${placeOf(path, [...issue.path, issue.keys[0]])}: unknown key; known are ${
      Object.keys((SECTIONS[String(issue.path[0])] ?? configSchema).shape).join(", ")
    }`;
  throw new UserError(sentence);
}

/** Names a key or a value of the file: `tegula.toml:7: apps.dns.read[0]`. */
export function placeOf(file: string, key: readonly PropertyKey[]): string {
  const name = key.map((step, i) =>
    typeof step === "number" ? `[${step}]` : `${i === 0 ? "" : "."}${excerpt(String(step))}`
  ).join("");
  return `${file}:${lineOf(Deno.readTextFileSync(file), key)}: ${name}`;
}

/** The default memory of an app's process. */
const MEMORY_BYTES = 256 * UNITS.M;

/**
 * Returns the app tiles that a configuration needs. An app on several ports is one app. Of several
 * instances, the n-th serves the ports with at least n instances, and has its share of the app's
 * own ports. Throws UserError for an unknown app, and for configuration that has no effect.
 */
export function planApps(
  { listen, apps, file, netTiles }: Pick<RunConfig, "listen" | "apps" | "file" | "netTiles">,
): AppPlan[] {
  const unused = Object.keys(apps).find((name) => !listen.some(({ app }) => app === name));
  if (unused !== undefined) {
    throw new UserError(`${placeOf(file!, ["apps", unused])}: no port is given to it`);
  }
  const groups = Map.groupBy(listen, ({ inline, app }) => `${inline} ${app}`);
  const planned = [...groups.values()].flatMap((group) => {
    const [{ app, inline }] = group;
    const config = appSchema.parse(Object.hasOwn(apps, app) ? apps[app] : {});
    const plan = planApp(app, { config, inline, file });
    const instances = Math.max(...group.map((one) => one.instances));
    const sockets = (plan.beside?.tcp.length ?? 0) * countPorts(group.map(({ ports }) => ports));
    if (sockets > MOST_TCP) {
      throw new UserError(
        `${app} is granted TCP on ${sockets} addresses and ports: at most ${MOST_TCP} are served`,
      );
    }
    const own = portsOf(config.own_ports);
    const refuse = (sentence: string) => {
      const place = placeOf(file!, ["apps", app, "own_ports"]);
      throw new UserError(`${place}: ${sentence}`);
    };
    if (own.length > 0 && own.length < instances) {
      refuse(`${own.length} are too few for ${instances} instances: each takes at least one`);
    }
    if (own.length > 0 && inline && netTiles !== 1) {
      refuse(
        `${app}@inline runs in each net tile, so ports of its own require net_tiles = 1`,
      );
    }
    if (own.length > 0 && listen.some((each) => each.app === app && each.inline !== inline)) {
      refuse(`${app} runs both inline and in a process: give one of them another name`);
    }
    return Array.from({ length: instances }, (_, i) => {
      const share = (n: number) => Math.floor(n * own.length / instances);
      const ownPorts = joinRanges(
        own.slice(share(i), share(i + 1)).map((port) => [port, port] as const),
      );
      const shared = group.filter((one) => one.instances > i).map(({ ports }) => ports);
      return {
        ...plan,
        app,
        name: instances === 1 ? app : `${app}.${i + 1}`,
        ports: joinRanges([...shared, ...ownPorts]),
        ...{ ownPorts, instance: i, instances },
      };
    });
  });
  checkNames(planned);
  return planned;
}

/** Names of tiles, and prefixes of their links' names. */
export const TILE_NAME = /^(netlink|status|net\d+( to .*)?)$/;

/**
 * Checks that the names of processes, which identify them in the log, metrics and regions, are
 * unique. Throws UserError.
 */
function checkNames(apps: readonly AppPlan[]): void {
  const refuse = (name: string, sentence: string) => {
    throw new UserError(`${quoted(name)} ${sentence}`);
  };
  for (const { app } of apps) {
    if (/\p{Cc}/u.test(app)) {
      refuse(app, "contains a control character: give the app another name");
    }
    // The metrics identify instances of an app by this suffix.
    if (/\.\d+$/.test(app)) {
      refuse(app, "ends like the name of an instance: give the app another name");
    }
  }
  const names = apps.filter(({ inline }) => !inline)
    .flatMap(({ name, beside }) => beside === undefined ? [name] : [name, `${name} beside`]);
  const taken = names.find((name, i) => TILE_NAME.test(name) || names.indexOf(name) < i);
  if (taken !== undefined) {
    refuse(taken, "is the name of another process or tile: give the app another name");
  }
}

function planApp(
  app: string,
  { config, inline, file }: {
    config: z.output<typeof appSchema>;
    inline: boolean;
    file: string | null;
  },
): Omit<AppPlan, "app" | "name" | "ports"> {
  const { module = app, options, tcp, read, write, env, net, keep, depth, memory, state } = config;
  const shipped = Object.hasOwn(APPS, module) ? APPS[module] : undefined;
  const known = shipped?.options ?? Object.keys(options);
  const unknown = Object.keys(options).find((each) => !known.includes(each));
  if (unknown !== undefined) {
    throw new UserError(
      `${placeOf(file!, ["apps", app, "options", unknown])}: ${module} has no such option; ` +
        (known.length === 0 ? "it has none" : `it has ${known.join(", ")}`),
    );
  }
  if (inline && (keep || [...write, ...env, ...net].length > 0)) {
    throw new UserError(
      `${app}@inline shares the net tile's worker, and can only be granted read and clock`,
    );
  }
  if (inline && (memory ?? state ?? depth) !== undefined) {
    throw new UserError(
      `${app}@inline has no process of its own, so it can have neither memory nor state nor depth`,
    );
  }
  const beside = besideModule(module, config);
  if (inline && (beside ?? tcp[0]) !== undefined) {
    throw new UserError(
      `${app}@inline has no process of its own, so it can have no slow side (beside, tcp)`,
    );
  }
  if (beside === undefined && tcp.length > 0) {
    throw new UserError(
      `${app} has no slow side that could accept TCP: name its module with beside, or remove tcp`,
    );
  }
  const grants = { read, write, env, net, clock: config.clock || shipped?.clock === true, keep };
  const plan = {
    ...{ module: appModule(module), options, grants, inline, depth },
    sendTo: config.send_to,
    refuseSources: config.refuse_sources,
    mostPerSecond: config.most_per_second,
    packetTimes: config.packet_times ?? shipped?.packetTimes,
    memoryMib: inline ? undefined : Math.floor((memory ?? MEMORY_BYTES) / UNITS.M),
    stateBytes: state,
    beside: beside === undefined ? undefined : { module: beside, tcp },
  };
  // Without undefined values it equals its copy through JSON.
  const defined = Object.entries(plan).filter(([, value]) => value !== undefined);
  return Object.fromEntries(defined) as typeof plan;
}

/** The URL of the module of an app's slow side, or undefined. Throws UserError. */
function besideModule(
  module: string,
  { beside, tcp, options }: z.output<typeof appSchema>,
): string | undefined {
  if (!Object.hasOwn(APPS, module)) return beside && moduleAt(beside);
  if (beside !== undefined) {
    throw new UserError(
      `${module} ships with all that it needs: remove beside, or name another module`,
    );
  }
  const shipped = APPS[module].beside;
  const wants = [...Object.keys(options), ...tcp.length > 0 ? ["tcp"] : []];
  if (!shipped?.if.some((name) => wants.includes(name))) return undefined;
  return new URL(`../${shipped.module}`, import.meta.url).href;
}

function appModule(app: string): string {
  if (Object.hasOwn(APPS, app)) return new URL(`../${APPS[app].module}`, import.meta.url).href;
  if (!app.includes("/")) {
    throw new UserError(
      `there is no app '${excerpt(app)}'; the apps are ${
        Object.keys(APPS).join(", ")
      }, or a path ` +
        "such as ./my_app.ts",
    );
  }
  return moduleAt(app);
}

/** The URL of the module at `path`, without symbolic links. Throws UserError. */
export function moduleAt(path: string): string {
  try {
    const real = Deno.realPathSync(path);
    if (Deno.statSync(real).isFile) return pathToFileURL(real).href;
  } catch (error) {
    throw new UserError(`cannot read the app module ${fileTrouble(error)}`);
  }
  throw new UserError(`cannot read the app module ${path}: it is not a file`);
}
