/**
 * The command line: which command, and what becomes of its errors.
 *
 * @module
 */

import { Exit, UserError } from "./errors.ts";
import { VERSION } from "./version.ts";

/** A command: its arguments in, its exit status out. Modules are loaded when they are asked for. */
interface Command {
  readonly summary: string;
  load(): Promise<(args: string[]) => Promise<number>>;
}

const COMMANDS: Record<string, Command> = {
  run: {
    summary: "answer UDP on interfaces of this host",
    load: async () => (await import("./run.ts")).run,
  },
  demo: {
    summary: "watch it work between network namespaces of its own",
    load: async () => (await import("./demo.ts")).demo,
  },
  show: {
    summary: "print the interfaces, routes or neighbours that it would use",
    load: async () => (await import("./show.ts")).show,
  },
  route: {
    summary: "print where a packet to an address would go",
    load: async () => (await import("./route.ts")).route,
  },
  explain: {
    summary: "tell in words what becomes of a packet to an address, and why",
    load: async () => (await import("./explain.ts")).explain,
  },
  check: {
    summary: "look for what would hurt on this host, and how to mend it",
    load: async () => (await import("./check.ts")).check,
  },
  monitor: {
    summary: "print changes of the kernel's network state as they are mirrored",
    load: async () => (await import("./monitor.ts")).monitor,
  },
  audit: {
    summary: "have a running one compare its mirror with the kernel",
    load: async () => (await import("./audit.ts")).audit,
  },
  capture: {
    summary: "show the frames that a running one receives, sends and drops",
    load: async () => (await import("./capture.ts")).capture,
  },
};

function help(): string {
  return [
    "tegula: answers UDP through AF_XDP with the network configuration that the kernel has",
    "",
    "usage: tegula COMMAND [OPTIONS]",
    "",
    ...Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(8)} ${summary}`),
    "",
    "  tegula COMMAND --help tells a command's options; tegula --version the version.",
  ].join("\n");
}

/** Runs the command that `args` name and returns the exit status. */
export async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    console.log(help());
    return name === undefined ? Exit.usage : Exit.ok;
  }
  if (name === "--version" || name === "-V") {
    console.log(`tegula ${VERSION}`);
    return Exit.ok;
  }
  try {
    if (!Object.hasOwn(COMMANDS, name)) throw unknownCommand(name);
    const command = await COMMANDS[name].load();
    return await command(rest);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    console.error(`tegula: ${error.message}`);
    return error.status;
  }
}

function unknownCommand(name: string): UserError {
  const allowed = Object.keys(COMMANDS).join(", ");
  return new UserError(`unknown command '${name}'; the commands are ${allowed}`, Exit.usage);
}
