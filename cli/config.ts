/**
 * What a run is told: the configuration file (TOML), and the words that stand both in it and on the
 * command line. Everything is checked here, before anything is touched, and what is wrong is said
 * with its place and what is allowed.
 */

import { dirname } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import { z } from "zod";
import { parseAddress } from "../tiles/netlink/addresses.ts";
import { type AppConfig, appSchema, locate, toAppConfig } from "./app_config.ts";
import { Exit, UserError } from "./errors.ts";
import { type Given, oneOf, wholeNumber } from "./options.ts";

/** How frames are taken: the best that works, AF_XDP or nothing, the kernel's sockets alone. */
export const PROVIDERS = ["auto", "xdp", "socket"] as const;

/** One of {@linkcode PROVIDERS}. */
export type Provider = typeof PROVIDERS[number];

/** Who sees to it that received UDP checksums are right: Tegula, or the NIC, which is believed. */
export const CHECKSUMS = ["verify", "nic"] as const;

/** A port, the app that answers on it, and how many instances of that app share it. */
export interface Listen {
  /** UDP port, 1 to 65535. */
  readonly port: number;
  /** Name of an app that ships, or the path of a module. */
  readonly app: string;
  /** Tiles that share the port, 1 to {@linkcode MAX_INSTANCES}. */
  readonly instances: number;
  /** Whether the app runs inside the net tiles, and not in tiles of its own. */
  readonly inline: boolean;
}

/** What `tegula run` is told. */
export interface RunConfig {
  readonly interfaces: string[];
  readonly listen: Listen[];
  /** What is said of apps, by their names. */
  readonly apps: Readonly<Record<string, AppConfig>>;
  readonly provider: Provider;
  readonly checksums: typeof CHECKSUMS[number];
  /** Whether net tiles poll the drivers of their AF_XDP sockets, in place of interrupts. */
  readonly busyPoll: boolean;
  /** Number of net tiles; left out, it follows queues and cores. */
  readonly netTiles?: number;
  /** Path of the control socket, or "none"; left out, it is in /run/tegula. */
  readonly control?: string;
  /** `address:port` of the metrics; left out, there are none. */
  readonly metrics?: string;
}

/** Most instances that share a port. */
export const MAX_INSTANCES = 64;
/** Most net tiles. */
export const MAX_NET_TILES = 64;

/** Longest name that an interface can have: IFNAMSIZ of linux/if.h less the final zero. */
const LONGEST_INTERFACE_NAME = 15;

/**
 * Reads `PORT=APP`, `PORT=APP*INSTANCES` or `PORT=APP@inline`, for example `7=echo` or
 * `5353=./my_service.ts*4`.
 * Throws a {@linkcode UserError} that says what is wrong and what is allowed.
 */
export function parseListen(text: string): Listen {
  const listen = readListen(text);
  if (typeof listen === "string") throw new UserError(listen, Exit.usage);
  return listen;
}

/** The listen that `text` says, or what is wrong with it. */
function readListen(text: string): Listen | string {
  const wrong = (what: string) => `${JSON.stringify(text)} is not PORT=APP: ${what}`;
  const parts = /^([^=]*)=(.*?)(?:\*([^*/]*)|@([^@/]*))?$/s.exec(text);
  if (parts === null) return wrong("for example 7=echo");
  const [, port, app, instances = "1", placement] = parts;
  if (!isNumberWithin(port, 1, 65535)) {
    return wrong(`the port must be a number from 1 to 65535, not ${JSON.stringify(port)}`);
  }
  if (app === "") return wrong("the app is missing; for example 7=echo");
  if (!isNumberWithin(instances, 1, MAX_INSTANCES)) {
    return wrong(`after * stands how many instances, from 1 to ${MAX_INSTANCES}`);
  }
  if (placement !== undefined && placement !== "inline") {
    return wrong(`after @ stands inline, or nothing, not ${JSON.stringify(placement)}`);
  }
  return {
    port: Number(port),
    app,
    instances: Number(instances),
    inline: placement !== undefined,
  };
}

/** Whether `text` is a plain decimal number from `least` to `most`. */
function isNumberWithin(text: string, least: number, most: number): boolean {
  return /^[0-9]{1,5}$/.test(text) && Number(text) >= least && Number(text) <= most;
}

/** Checks the place of the metrics, `ADDRESS:PORT`. Throws UserError. */
function parseMetrics(text: string): string {
  if (isPlace(text)) return text;
  throw new UserError(`--metrics takes ADDRESS:PORT, not '${text}'; ${PLACE_EXAMPLE}`, Exit.usage);
}

const PLACE_EXAMPLE = "for example 127.0.0.1:9464";

function isPlace(text: string): boolean {
  const [address, port, ...more] = text.split(":");
  return more.length === 0 && parseAddress(address) >= 0 && isNumberWithin(port ?? "", 1, 65535);
}

const listenSchema = z.string({ error: 'must be a text such as "7=echo"' }).transform(
  (text, context) => {
    const listen = readListen(text);
    if (typeof listen !== "string") return listen;
    context.addIssue({ code: "custom", message: listen });
    return z.NEVER;
  },
);

const interfaceSchema = z.string({ error: "must be the name of an interface" })
  .regex(/^[^\s/]+$/, { error: "must be the name of an interface, without spaces and slashes" })
  .max(LONGEST_INTERFACE_NAME, {
    error: `must be the name of an interface, at most ${LONGEST_INTERFACE_NAME} characters`,
  });

const fileSchema = z.strictObject({
  interfaces: z.array(interfaceSchema, { error: 'must be a list such as ["eth0"]' }).optional(),
  apps: z.record(z.string(), appSchema, { error: "must be tables such as [apps.dns]" }).optional(),
  listen: z.array(listenSchema, { error: 'must be a list such as ["7=echo"]' }).optional(),
  provider: z.enum(PROVIDERS, { error: `must be one of ${PROVIDERS.join(", ")}` }).optional(),
  net_tiles: z.int({ error: "must be a whole number" })
    .min(1, { error: "must be at least 1" })
    .max(MAX_NET_TILES, { error: `must be at most ${MAX_NET_TILES}` })
    .optional(),
  checksums: z.enum(CHECKSUMS, { error: `must be one of ${CHECKSUMS.join(", ")}` }).optional(),
  busy_poll: z.boolean({ error: "must be true or false" }).optional(),
  control: z.string({ error: 'must be the path of a socket, or "none"' }).optional(),
  metrics: z.string().refine(isPlace, { error: `must be "ADDRESS:PORT", ${PLACE_EXAMPLE}` })
    .optional(),
});

/** The keys that a configuration file may have. */
const KEYS = Object.keys(fileSchema.shape);

/**
 * Reads the configuration file at `path`. What it leaves out is empty (`interfaces`, `listen`) or
 * the default (`provider` "auto"), so that the command line can add to it. An app
 * named by a path that begins with `./` or `../` is sought from the file's own folder.
 * Throws a {@linkcode UserError} when the file cannot be read or is wrong.
 */
export async function loadConfig(path: string): Promise<RunConfig> {
  const parsed = fileSchema.safeParse(parseFile(path, await readFile(path)));
  if (!parsed.success) throw new UserError(`${path}: ${explain(parsed.error)}`, Exit.usage);
  const { interfaces = [], listen = [], apps = {}, provider = "auto", net_tiles } = parsed.data;
  const { checksums = "verify", busy_poll: busyPoll = false, control, metrics } = parsed.data;
  return {
    interfaces,
    listen: listen.map((one) => ({ ...one, app: locate(one.app, dirname(path)) })),
    apps: Object.fromEntries(
      Object.entries(apps).map(([name, app]) => [
        locate(name, dirname(path)),
        toAppConfig(app, dirname(path)),
      ]),
    ),
    provider,
    checksums,
    busyPoll,
    ...(net_tiles !== undefined && { netTiles: net_tiles }),
    ...(control !== undefined && { control }),
    ...(metrics !== undefined && { metrics }),
  };
}

/** The options that say, or add to, what stands in the file; --config names that. */
export const CONFIG_OPTIONS = {
  interface: { type: "string", multiple: true },
  listen: { type: "string", multiple: true },
  provider: { type: "string" },
  "net-tiles": { type: "string" },
  checksums: { type: "string" },
  "busy-poll": { type: "boolean" },
  control: { type: "string" },
  metrics: { type: "string" },
  config: { type: "string" },
} as const;

/** The file and the options together; what both say, the options say. Throws UserError. */
export async function readConfig(
  values: Partial<Given<typeof CONFIG_OPTIONS>["values"]>,
): Promise<RunConfig> {
  const file = values.config === undefined ? null : await loadConfig(values.config);
  const netTiles = values["net-tiles"] === undefined ? file?.netTiles : wholeNumber(
    values["net-tiles"],
    { option: "net-tiles", least: 1, most: MAX_NET_TILES },
  );
  const metrics = values.metrics === undefined ? file?.metrics : parseMetrics(values.metrics);
  const control = values.control ?? file?.control;
  return {
    interfaces: [...file?.interfaces ?? [], ...values.interface ?? []],
    listen: [...file?.listen ?? [], ...(values.listen ?? []).map(parseListen)],
    provider: values.provider === undefined
      ? file?.provider ?? "auto"
      : oneOf(values.provider, { option: "provider", allowed: PROVIDERS }),
    checksums: values.checksums === undefined
      ? file?.checksums ?? "verify"
      : oneOf(values.checksums, { option: "checksums", allowed: CHECKSUMS }),
    busyPoll: values["busy-poll"] ?? file?.busyPoll ?? false,
    ...(netTiles !== undefined && { netTiles }),
    ...(metrics !== undefined && { metrics }),
    ...(control !== undefined && { control }),
    apps: file?.apps ?? {},
  };
}

/**
 * Checks what only shows once file and command line are put together: there is an interface and a
 * port, neither is given twice, and nothing contradicts another. Throws a {@linkcode UserError}.
 */
export function checkConfig(config: RunConfig): void {
  const usage = (sentence: string) => new UserError(sentence, Exit.usage);
  if (config.listen.length === 0) {
    throw usage("no port to answer on: give at least one --listen PORT=APP, for example 7=echo");
  }
  const port = repeated(config.listen.map((one) => one.port));
  if (port !== undefined) throw usage(`port ${port} is given twice: one port, one app`);
  if (config.interfaces.length === 0) {
    throw usage("no interface: give at least one --interface NAME; `ip link` lists them");
  }
  const name = repeated(config.interfaces);
  if (name !== undefined) throw usage(`interface ${name} is given twice`);
  if (config.busyPoll && config.provider === "socket") {
    throw usage("busy polling is of AF_XDP, which --provider socket leaves out: give one of them");
  }
}

/** The first value that stands in the list more than once. */
function repeated<T>(values: readonly T[]): T | undefined {
  return values.find((value, at) => values.indexOf(value) < at);
}

async function readFile(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new UserError(`cannot read the configuration file: ${error.message}`, Exit.usage);
  }
}

function parseFile(path: string, text: string): unknown {
  try {
    return parseToml(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split("\n")[0].replace("Invalid TOML document: ", "");
    throw new UserError(`${path}:${error.line}:${error.column}: ${reason}`, Exit.usage);
  }
}

/** The first thing that is wrong, with its place in the file. */
function explain(error: z.ZodError): string {
  const [issue] = error.issues;
  if (issue.code === "unrecognized_keys") {
    const known = issue.path[0] === "apps" ? Object.keys(appSchema.shape) : KEYS;
    const where = issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
    return `${where}unknown key ${issue.keys.join(", ")}; known are ${known.join(", ")}`;
  }
  const place = issue.path.map((step, i) => i === 0 ? String(step) : `[${String(step)}]`).join("");
  return `${place}: ${issue.message}`;
}
