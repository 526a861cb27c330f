/**
 * What a run is told: the configuration file (TOML), and the words that stand both in it and on the
 * command line. Everything is checked here, before anything is touched, and what is wrong is said
 * with its place and what is allowed.
 */

import { dirname } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import { z } from "zod";
import { parseAddress } from "../tiles/netlink/addresses.ts";
import {
  countPorts,
  joinRanges,
  MOST_PORTS_SERVED,
  parseRange,
  type PortRange,
  portsOf,
  portsText,
  rangeText,
} from "../tiles/runtime/ports.ts";
import { appSchema, locate, toAppConfig, wants } from "./app_config.ts";
import { Exit, messageOf, UserError } from "./errors.ts";
import type { Given } from "./options.ts";

/** How frames are taken: the best that works, AF_XDP or nothing, the kernel's sockets alone. */
const PROVIDERS = ["auto", "xdp", "socket"] as const;
/** Who sees to it that received UDP checksums are right: Tegula, or the NIC, which is believed. */
const CHECKSUMS = ["verify", "nic"] as const;
/** Most instances that share a port. */
const MAX_INSTANCES = 64;
/** Most net tiles. */
const MAX_NET_TILES = 64;
/** Longest name that an interface can have: IFNAMSIZ of linux/if.h less the final zero. */
const LONGEST_INTERFACE_NAME = 15;

/** Ports, the app that answers on them, and how many instances of that app share each. */
export interface Listen {
  /** UDP ports, 1 to 65535. */
  readonly ports: PortRange;
  /** Name of an app that ships, or the path of a module. */
  readonly app: string;
  /** Tiles that share the port, 1 to {@linkcode MAX_INSTANCES}. */
  readonly instances: number;
  /** Whether the app runs inside the net tiles, and not in processes of its own. */
  readonly inline: boolean;
}

/** What `tegula run` is told. */
export type RunConfig = Readonly<Awaited<ReturnType<typeof readConfig>>>;

/**
 * Reads `PORTS=APP`, `PORTS=APP*INSTANCES` or `PORTS=APP@inline`, PORTS being one port or `FIRST-LAST`,
 * for example `7=echo`, `5300-5363=echo` or `5353=./my_service.ts*4`. Throws UserError that says what is
 * wrong and what is allowed.
 */
export function parseListen(text: string): Listen {
  const parts = /^([^=]*)=(.*?)(?:\*([^*/]*)|@([^@/]*))?$/s.exec(text) ?? [];
  const [, range = "", app, instances = "1", placement] = parts;
  const ports = parseRange(range, 1);
  const turned = range.split("-").reverse().join("-");
  if (
    !app || (ports ?? parseRange(turned, 1)) === null ||
    !isNumberWithin(instances, 1, MAX_INSTANCES) ||
    (placement !== undefined && placement !== "inline")
  ) {
    throw new UserError(
      `${
        JSON.stringify(text)
      } is not PORT=APP, such as 7=echo, FIRST-LAST=APP, such as 5300-5363=echo, PORT=APP*N or ` +
        "PORT=APP@inline, with ports from 1 to 65535 and N, how many instances, from 1 to " +
        `${MAX_INSTANCES}`,
      Exit.usage,
    );
  }
  if (ports === null) {
    throw new UserError(
      `${JSON.stringify(text)} goes backwards: a range begins with its lowest port, as in ` +
        `${turned}=${app}`,
      Exit.usage,
    );
  }
  return { ports, app, instances: Number(instances), inline: placement === "inline" };
}

/** What is answered, as it is written and in as few words: `7=echo 5300-5363=dns*2`. */
export function listenText(listen: readonly Listen[]): string {
  const byApp = Map.groupBy(
    listen,
    ({ app, instances, inline }) =>
      `${app}${inline ? "@inline" : instances > 1 ? `*${instances}` : ""}`,
  );
  return [...byApp].flatMap(([app, all]) =>
    joinRanges(all.map(({ ports }) => ports)).map((range) => `${rangeText(range)}=${app}`)
  ).join(" ");
}

/** Whether `text` is a plain decimal number from `least` to `most`. */
function isNumberWithin(text: string, least: number, most: number): boolean {
  return /^[0-9]{1,5}$/.test(text) && Number(text) >= least && Number(text) <= most;
}

/** Whether `text` is `ADDRESS:PORT`. */
function isPlace(text: string): boolean {
  const [address, port, ...more] = text.split(":");
  return more.length === 0 && parseAddress(address) >= 0 && isNumberWithin(port ?? "", 1, 65535);
}

const listenSchema = z.string(wants('a text such as "7=echo"')).transform(
  (text, context) => {
    try {
      return parseListen(text);
    } catch (error) {
      context.addIssue({ code: "custom", message: messageOf(error) });
      return z.NEVER;
    }
  },
);

const interfaceName = wants("the name of an interface, without spaces and slashes");
const metricsPlace = wants("ADDRESS:PORT, for example 127.0.0.1:9464");
const firstUser = wants("the number of the first of 64 users that nobody else has");
const netTiles = wants(`a whole number from 1 to ${MAX_NET_TILES}`);

/** What can be said, by the names that the file has for it. */
const schema = z.strictObject({
  interfaces: z.array(
    z.string(interfaceName).regex(/^[^\s/]+$/, interfaceName).max(
      LONGEST_INTERFACE_NAME,
      wants(`the name of an interface, at most ${LONGEST_INTERFACE_NAME} characters`),
    ),
    wants('a list such as ["eth0"]'),
  ).default([]),
  apps: z.record(z.string(), appSchema, wants("tables such as [apps.dns]")).default({}),
  listen: z.array(listenSchema, wants('a list such as ["7=echo"]')).default([]),
  provider: z.enum(PROVIDERS, wants(`one of ${PROVIDERS.join(", ")}`)).optional(),
  net_tiles: z.int(netTiles).min(1, netTiles).max(MAX_NET_TILES, netTiles).optional(),
  checksums: z.enum(CHECKSUMS, wants(`one of ${CHECKSUMS.join(", ")}`)).optional(),
  busy_poll: z.boolean(wants("true or false")).optional(),
  dispatcher: z.boolean(wants("true or false")).optional(),
  control: z.string(wants('the path of a socket, or "none"')).optional(),
  user: z.int(firstUser).min(1, firstUser).max(2 ** 31 - 64, firstUser).optional(),
  metrics: z.string(metricsPlace).refine(isPlace, metricsPlace).optional(),
});

/** The options that say, or add to, what stands in the file; --config names that. */
export const CONFIG_OPTIONS = {
  interface: { type: "string", multiple: true },
  listen: { type: "string", multiple: true },
  provider: { type: "string" },
  "net-tiles": { type: "string" },
  checksums: { type: "string" },
  "busy-poll": { type: "boolean" },
  dispatcher: { type: "boolean" },
  control: { type: "string" },
  metrics: { type: "string" },
  config: { type: "string" },
} as const;

/** What the file calls an option: the plural, or with an underscore. */
function keyOf(option: string): string {
  return option === "interface" ? "interfaces" : option.replace("-", "_");
}

/**
 * The file and the options together; what both say, the options say, but that interfaces and ports add
 * up. An app named by a path that begins with `./` or `../` is sought from the file's own folder, or
 * from the working directory where the command line names it.
 * Throws UserError when the file cannot be read, or when something is wrong.
 */
export async function readConfig(
  { config: path, ...values }: Partial<Given<typeof CONFIG_OPTIONS>["values"]>,
) {
  const folder = dirname(path ?? "");
  const inFile = path === undefined ? checked({}) : checked(await readFile(path), path);
  const options = checked(Object.fromEntries(
    Object.entries(values).map(([option, value]) => [
      keyOf(option),
      option === "net-tiles" && /^\d+$/.test(String(value)) ? Number(value) : value,
    ]),
  ));
  const { net_tiles: netTiles, busy_poll: busyPoll = false, ...said } = { ...inFile, ...options };
  return {
    provider: "auto" as const,
    checksums: "verify" as const,
    dispatcher: false,
    ...said,
    busyPoll,
    /** The configuration file; null: there is none. */
    file: path ?? null,
    ...(netTiles !== undefined && { netTiles }),
    interfaces: [...inFile.interfaces, ...options.interfaces],
    listen: [
      ...inFile.listen.map((one) => ({ ...one, app: locate(one.app, folder) })),
      ...options.listen.map((one) => ({ ...one, app: locate(one.app, "") })),
    ],
    apps: Object.fromEntries(
      Object.entries(inFile.apps).map(([name, app]) => [
        locate(name, folder),
        toAppConfig(app, folder),
      ]),
    ),
  };
}

/**
 * Checks what only shows once file and command line are put together: there is a port, no port and no
 * interface is given twice, and nothing contradicts another. Throws a {@linkcode UserError}.
 */
export function checkConfig(config: RunConfig): void {
  const usage = (sentence: string) => new UserError(sentence, Exit.usage);
  if (config.listen.length === 0) {
    throw usage("no port to answer on: give at least one --listen PORT=APP, for example 7=echo");
  }
  checkListen(config.listen);
  const name = repeated(config.interfaces);
  if (name !== undefined) throw usage(`interface ${name} is given twice`);
  if (config.provider === "socket" && (config.busyPoll || config.dispatcher)) {
    throw usage("--provider socket leaves out AF_XDP, and with it --busy-poll and --dispatcher");
  }
}

/** Checks that no port is given twice, and that they are not too many. Throws a {@linkcode UserError}. */
export function checkListen(listen: readonly Listen[]): void {
  const ranges = listen.map(({ ports }) => ports).toSorted(([a], [b]) => a - b);
  let taken = 0;
  for (const [first, last] of ranges) {
    if (first <= taken) {
      const twice = portsText(portsOf([[first, Math.min(taken, last)]]));
      throw new UserError(`${twice} given twice: one port, one app`, Exit.usage);
    }
    taken = last;
  }
  const count = countPorts(ranges);
  if (count <= MOST_PORTS_SERVED) return;
  throw new UserError(
    `${count} ports are too many: one Tegula serves at most ${MOST_PORTS_SERVED}`,
    Exit.usage,
  );
}

/** The first value that stands in the list more than once. */
function repeated<T>(values: readonly T[]): T | undefined {
  return values.find((value, at) => values.indexOf(value) < at);
}

async function readFile(path: string): Promise<unknown> {
  try {
    return parseToml(await Deno.readTextFile(path));
  } catch (error) {
    if (!(error instanceof TomlError)) {
      throw new UserError(`cannot read the configuration file: ${messageOf(error)}`, Exit.usage);
    }
    const reason = error.message.split("\n")[0].replace("Invalid TOML document: ", "");
    throw new UserError(`${path}:${error.line}:${error.column}: ${reason}`, Exit.usage);
  }
}

/** What the file at `path` says, or without one what the options do. Throws UserError. */
function checked(said: unknown, path?: string): z.output<typeof schema> {
  const { data, error } = schema.safeParse(said);
  if (data !== undefined) return data;
  const [issue] = error.issues;
  const sentence = path === undefined
    ? `--${
      Object.keys(CONFIG_OPTIONS).find((each) => keyOf(each) === issue.path[0])
    }: ${issue.message}`
    : `${path}: ${explain(issue)}`;
  throw new UserError(sentence, Exit.usage);
}

/** The first thing that is wrong, with its place in the file. */
function explain(issue: z.core.$ZodIssue): string {
  if (issue.code === "unrecognized_keys") {
    const known = Object.keys(issue.path[0] === "apps" ? appSchema.shape : schema.shape);
    const where = issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
    return `${where}unknown key ${issue.keys.join(", ")}; known are ${known.join(", ")}`;
  }
  const place = issue.path.map((step, i) =>
    typeof step === "number" ? `[${step}]` : `${i === 0 ? "" : "."}${String(step)}`
  ).join("");
  return `${place}: ${issue.message}`;
}
