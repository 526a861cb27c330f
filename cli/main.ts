/**
 * The command line: which command, and what becomes of its errors.
 */

import { Exit, statusOf, UserError } from "./errors.ts";
import { say } from "./command.ts";
import { VERSION } from "./self.ts";

/** A command: its arguments in, its exit status out. */
type Command = (args: string[]) => Promise<number>;

/** Each with its line of help. Modules are loaded when they are asked for. */
const COMMANDS: Record<string, [summary: string, load: () => Promise<{ default: Command }>]> = {
  run: ["answer UDP on interfaces of this host", () => import("./run.ts")],
  demo: ["watch it work between network namespaces of its own", () => import("../demo/demo.ts")],
  show: ["print the interfaces, routes or neighbours that it would use", () => import("./show.ts")],
  route: ["print where a packet to an address would go", () => import("./route.ts")],
  explain: [
    "tell in words what becomes of a packet to an address, and why",
    () => import("./explain.ts"),
  ],
  reload: [
    "have a running one go on by its configuration and apps as they are now",
    () => import("./reload.ts"),
  ],
  upgrade: [
    "have a running one go on with the program that is installed now",
    () => import("./upgrade.ts"),
  ],
  check: ["look for what would hurt on this host, and how to mend it", () => import("./check.ts")],
  monitor: [
    "print changes of the kernel's network state as they are mirrored",
    () => import("./monitor.ts"),
  ],
  audit: ["have a running one compare its mirror with the kernel", () => import("./audit.ts")],
  capture: [
    "show the frames that a running one receives, sends and drops",
    () => import("./capture.ts"),
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
    "  tegula COMMAND --help tells a command's options; tegula --version the version.",
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
  const { default: command } = await load();
  return await command(rest);
}

/**
 * Regions are made through /proc, and threads looked at; and Deno panics without it, some of its modules
 * as they are loaded.
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
