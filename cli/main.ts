// SPDX-License-Identifier: Apache-2.0
/**
 * The command line: finds the command, runs it and reports its errors.
 */

import {
  abbreviated,
  type Command,
  excerpt,
  Exit,
  listText,
  say,
  UserError,
  VERSION,
} from "./command.ts";
import { attempt } from "../ffi/library.ts";
import { prefix } from "../master/log.ts";
import { Level } from "../tiles/runtime/log.ts";

const control = () => import("./control.ts");
const show = () => import("./show.ts");
/** The commands, each with a line of help, and its module, which is loaded on demand. */
export const COMMANDS: Record<string, [summary: string, load: () => Promise<object>]> = {
  run: ["answer UDP on interfaces of this host", () => import("./run.ts")],
  demo: [
    "watch Tegula at work between new network namespaces",
    () => import("../demo/demo.ts"),
  ],
  dev: ["run an app on the loopback device while you write it", () => import("./dev.ts")],
  show: ["print the interfaces, routes or neighbours that Tegula uses", show],
  route: ["print the route of a packet to an address", show],
  explain: [
    "explain what happens to a packet to an address, and why",
    () => import("./explain.ts"),
  ],
  status: ["print the state, rates and drops of a running tegula", () => import("./status.ts")],
  drain: ["make a running tegula not ready, while it continues to serve", control],
  undrain: ["make a drained tegula ready again", control],
  reload: ["reload the configuration and the apps of a running tegula", control],
  upgrade: ["switch a running tegula to the program that is installed now", control],
  withdraw: [
    "remove the markers of a tegula that was killed (the unit does)",
    () => import("./withdraw.ts"),
  ],
  check: [
    "find problems of this host and its configuration, and their fixes",
    () => import("./check.ts"),
  ],
  monitor: [
    "print changes of the kernel's network state as they happen",
    () => import("./monitor.ts"),
  ],
  audit: ["compare the mirror of a running tegula with the kernel", control],
  top: ["watch the rates, drops and load of a running tegula", () => import("./top.ts")],
  capture: [
    "show the frames that a running tegula receives, sends and drops",
    () => import("./capture.ts"),
  ],
};

/** The command of this name: its module exports it by this name, or by default. */
export async function commandOf(name: string): Promise<Command> {
  const module: { readonly [name: string]: Command } = { ...await COMMANDS[name][1]() };
  return module[name] ?? module.default;
}

export const ABOUT = "answers UDP through AF_XDP with the kernel's network configuration";
/** Commands without a module. */
export const OTHER_COMMANDS = {
  help: "print this, or the options of a command",
  version: "print the version",
} as const;
/** All commands, each with a line of help. */
export const SUMMARIES: readonly (readonly [name: string, summary: string])[] = [
  ...Object.entries(COMMANDS).map(([name, [summary]]) => [name, summary] as const),
  ...Object.entries(OTHER_COMMANDS),
];
const NAMES = SUMMARIES.map(([name]) => name);
/** `r` could also be `run`, but `tegula r g` should work as `ip r g` does. */
const SHORT = new Map([["r", "route"], ["-h", "help"], ["--help", "help"]])
  .set("-V", "version").set("--version", "version");

function help(): string {
  return [
    `tegula: ${ABOUT}`,
    "usage: tegula COMMAND [OPTIONS]",
    listText(SUMMARIES),
    "'tegula COMMAND --help' prints a command's options. Names may be abbreviated: 'tegula sh ro'.",
  ].join("\n\n");
}

/** Runs the command in `args`. Prints a UserError. Returns the exit status. */
export async function main(args: string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    // If standard error cannot be written, only the status reports the error.
    attempt(() => console.error(`${prefix(Level.error)}tegula: ${error.message}`));
    return error.status;
  }
}

async function run([given, ...rest]: string[]): Promise<number> {
  if (given === undefined) {
    say(help());
    return Exit.usage;
  }
  const name = nameOf(given);
  if (name === "version") {
    say(`tegula ${VERSION}`);
    return Exit.ok;
  }
  if (name === "help") {
    const about = rest[0] === undefined ? name : nameOf(rest[0]);
    if (Object.hasOwn(COMMANDS, about)) return await run([about, "--help"]);
    say(help());
    return Exit.ok;
  }
  checkProc();
  return await (await commandOf(name))(rest);
}

/** The command that `given` names or abbreviates. Throws UserError. */
function nameOf(given: string): string {
  const [name, ...others] = SHORT.has(given) ? [SHORT.get(given)!] : abbreviated(given, NAMES);
  if (name !== undefined && others.length === 0) return name;
  const which = name === undefined
    ? `unknown command '${excerpt(given)}'; the commands are ${NAMES.join(", ")}`
    : `'${given}' may be ${[name, ...others].join(" or ")}`;
  throw new UserError(which);
}

/**
 * Throws UserError unless /proc of this PID namespace is mounted. Regions and threads are accessed
 * through it, and Deno panics without it, sometimes while it loads modules.
 */
function checkProc(): void {
  const self = attempt(() => Deno.readLinkSync("/proc/self"));
  if (self === undefined) {
    throw new UserError("/proc is missing; 'mount -t proc proc /proc' mounts it", Exit.system);
  }
  if (self === `${Deno.pid}`) return;
  throw new UserError(
    "/proc is that of another PID namespace; 'mount -t proc proc /proc' mounts the right one, as " +
      "unshare --mount-proc does",
    Exit.system,
  );
}
