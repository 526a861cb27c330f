// SPDX-License-Identifier: Apache-2.0
/**
 * The command line: finds the command, runs it and reports its errors.
 */

import {
  abbreviated,
  type Command,
  Exit,
  listText,
  say,
  statusOf,
  UserError,
  VERSION,
} from "./command.ts";

/** The commands, each with its line of help. A command's module is loaded when it is run. */
export const COMMANDS: Record<string, [summary: string, load: () => Promise<Command>]> = {
  run: ["answer UDP on interfaces of this host", async () => (await import("./run.ts")).default],
  demo: [
    "watch Tegula at work between network namespaces of its own",
    async () => (await import("../demo/demo.ts")).default,
  ],
  dev: [
    "run an app on the loopback device while you write it",
    async () => (await import("./dev.ts")).default,
  ],
  show: [
    "print the interfaces, routes or neighbours that Tegula uses",
    async () => (await import("./show.ts")).show,
  ],
  route: [
    "print the route of a packet to an address",
    async () => (await import("./show.ts")).route,
  ],
  explain: [
    "explain what happens to a packet to an address, and why",
    async () => (await import("./explain.ts")).default,
  ],
  status: [
    "print how a running tegula is, and what it does",
    async () => (await import("./status.ts")).default,
  ],
  drain: [
    "have a running tegula be not ready, and serve on",
    async () => (await import("./control.ts")).drain,
  ],
  undrain: [
    "have a drained tegula be ready again",
    async () => (await import("./control.ts")).undrain,
  ],
  reload: [
    "load the configuration and apps of a running tegula anew",
    async () => (await import("./control.ts")).reload,
  ],
  upgrade: [
    "switch a running tegula to the program that is installed now",
    async () => (await import("./control.ts")).upgrade,
  ],
  withdraw: [
    "remove the markers of a tegula that was killed (the unit does)",
    async () => (await import("./withdraw.ts")).default,
  ],
  check: [
    "find problems of this host and its configuration, and their fixes",
    async () => (await import("./check.ts")).default,
  ],
  monitor: [
    "print changes of the kernel's network state as they happen",
    async () => (await import("./monitor.ts")).default,
  ],
  audit: [
    "compare the mirror of a running tegula with the kernel",
    async () => (await import("./control.ts")).audit,
  ],
  top: [
    "watch the rates, drops and load of a running tegula",
    async () => (await import("./top.ts")).default,
  ],
  capture: [
    "show the frames that a running tegula receives, sends and drops",
    async () => (await import("./capture.ts")).default,
  ],
};

export const ABOUT =
  "answers UDP through AF_XDP with the network configuration that the kernel has";
/** Commands without a module. */
export const OTHER_COMMANDS = {
  help: "print this, or the options of a command",
  version: "print the version",
} as const;
const NAMES = [...Object.keys(COMMANDS), ...Object.keys(OTHER_COMMANDS)];
/** `r` might also be `run`, but `tegula r g` is to be what `ip r g` is. */
const SHORT = new Map([["r", "route"], ["-h", "help"], ["--help", "help"]])
  .set("-V", "version").set("--version", "version");

function help(): string {
  return [
    `tegula: ${ABOUT}`,
    "usage: tegula COMMAND [OPTIONS]",
    listText([
      ...Object.entries(COMMANDS).map(([name, [summary]]) => [name, summary] as const),
      ...Object.entries(OTHER_COMMANDS),
    ]),
    "'tegula COMMAND --help' prints a command's options. Names may be abbreviated: 'tegula sh ro'.",
  ].join("\n\n");
}

/** Runs the command that `args` name and returns the exit status. */
export function main(args: string[]): Promise<number> {
  return statusOf(() => run(args));
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
  const [, load] = COMMANDS[name];
  const command = await load();
  return await command(rest);
}

/** The command that `given` is, or abbreviates. Throws UserError. */
function nameOf(given: string): string {
  const [name, ...others] = SHORT.has(given) ? [SHORT.get(given)!] : abbreviated(given, NAMES);
  if (name !== undefined && others.length === 0) return name;
  const which = name === undefined
    ? `unknown command '${given}'; the commands are ${NAMES.join(", ")}`
    : `'${given}' may be ${[name, ...others].join(" or ")}`;
  throw new UserError(which, Exit.usage);
}

/**
 * Throws UserError unless this process's own /proc is mounted. Regions and threads are accessed through
 * it, and Deno panics without it, some of its modules while they are loaded.
 */
function checkProc(): void {
  let self: string;
  try {
    self = Deno.readLinkSync("/proc/self");
  } catch {
    throw new UserError("/proc is missing; 'mount -t proc proc /proc' mounts it", Exit.system);
  }
  if (self === `${Deno.pid}`) return;
  throw new UserError(
    "/proc is that of another PID namespace; 'mount -t proc proc /proc' mounts the right one, as " +
      "unshare --mount-proc does",
    Exit.system,
  );
}
