/**
 * The command line: finds the command, runs it and reports its errors.
 */

import { Exit, say, statusOf, UserError, VERSION } from "./command.ts";

/** Takes a command's arguments and returns its exit status. */
type Command = (args: string[]) => Promise<number>;

/** The commands, each with its line of help. A command's module is loaded when it is run. */
const COMMANDS: Record<string, [summary: string, load: () => Promise<Command>]> = {
  run: ["answer UDP on interfaces of this host", async () => (await import("./run.ts")).default],
  demo: [
    "watch Tegula at work between network namespaces of its own",
    async () => (await import("../demo/demo.ts")).default,
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
  capture: [
    "show the frames that a running tegula receives, sends and drops",
    async () => (await import("./capture.ts")).default,
  ],
};

function help(): string {
  return [
    "tegula: answers UDP through AF_XDP with the network configuration that the kernel has",
    "",
    "usage: tegula COMMAND [OPTIONS]",
    "",
    ...Object.entries(COMMANDS).map(([name, [summary]]) => `  ${name.padEnd(8)} ${summary}`),
    "",
    "  'tegula COMMAND --help' prints a command's options, 'tegula --version' the version.",
  ].join("\n");
}

/** Runs the command that `args` name and returns the exit status. */
export function main(args: string[]): Promise<number> {
  return statusOf(() => run(args));
}

async function run([name, ...rest]: string[]): Promise<number> {
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    say(help());
    return name === undefined ? Exit.usage : Exit.ok;
  }
  if (name === "--version" || name === "-V") {
    say(`tegula ${VERSION}`);
    return Exit.ok;
  }
  if (!Object.hasOwn(COMMANDS, name)) {
    const known = Object.keys(COMMANDS).join(", ");
    throw new UserError(`unknown command '${name}'; the commands are ${known}`, Exit.usage);
  }
  checkProc();
  const [, load] = COMMANDS[name];
  const command = await load();
  return await command(rest);
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
