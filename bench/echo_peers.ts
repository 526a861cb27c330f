// SPDX-License-Identifier: Apache-2.0
/**
 * The echoes, as command lines: Tegula's in both placements, and its peers.
 */

import { fileURLToPath } from "node:url";
import { selfCommand } from "../cli/command.ts";
import { rangeText } from "../tiles/runtime/plan.ts";
import { TEGULA } from "./harness.ts";
import { INLINE } from "./placements.ts";
import type { Programs } from "./programs.ts";
import { INTERFACE } from "./track.ts";

/** The first port of the echo. */
export const PORT = 7;
/** The package that contains Bun. */
const BUN = "bun@1.4.5";
const BUN_FOLDER = fileURLToPath(new URL("../build/bench/bun/", import.meta.url));
const BUN_CPU = Deno.build.arch === "aarch64" ? "aarch64" : "x64";
export const BUN_PROGRAM = `${BUN_FOLDER}node_modules/@oven/bun-linux-${BUN_CPU}/bin/bun`;
/** Time limit for its download of about 100 MB. */
const BUN_MILLIS = 120_000;

/** Tegula, echoing on `ports` ports. */
export function tegula({ ports = 1, app = "echo" } = {}): string[] {
  const listen = ["--listen", `${rangeText([PORT, PORT + ports - 1])}=${app}`];
  return [...selfCommand(), "run", "--interface", INTERFACE, "--provider", "xdp", ...listen];
}

/**
 * All echoes by name. Each of Tegula's is between the two in C that it is compared with, since the machine's
 * speed changes over time.
 */
export async function echoes(programs: Programs): Promise<Record<string, readonly string[]>> {
  const afXdp = [programs.echo_af_xdp, programs.object, INTERFACE, String(PORT)];
  const peer = (name: string) => fileURLToPath(new URL(`peers/${name}`, import.meta.url));
  return {
    c_af_xdp_poll: [...afXdp, "poll"],
    [TEGULA]: tegula(),
    c_af_xdp: [...afXdp, "spin"],
    [INLINE]: tegula({ app: "echo@inline" }),
    c_mmsg: [programs.echo_mmsg, String(PORT)],
    ...(await runs("node") && { node: ["node", peer("echo_node.mjs"), String(PORT)] }),
    deno: [
      ...[Deno.execPath(), "run", "--allow-net", "--unstable-net", peer("echo_deno.ts")],
      String(PORT),
    ],
    ...(await runs(BUN_PROGRAM) && { bun: [BUN_PROGRAM, peer("echo_bun.mjs"), String(PORT)] }),
  };
}

/** Whether `program` is installed and starts. Logs if not. */
export async function runs(program: string): Promise<boolean> {
  try {
    const command = new Deno.Command(program, { args: ["--version"], stdout: "null" });
    if ((await command.output()).success) return true;
  } catch {
    // It is not installed.
  }
  console.error(`${program} cannot be run: left out`);
  return false;
}

/** Installs Bun into build/ by npm. Only outside of the laboratory, which has no network. */
export async function fetchBun(): Promise<void> {
  if (await exists(BUN_PROGRAM)) return;
  const quiet = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund"];
  await new Deno.Command("npm", {
    args: ["install", "--prefix", BUN_FOLDER, "--ignore-scripts", ...quiet, BUN],
    stdout: "null",
    stderr: "null",
    signal: AbortSignal.timeout(BUN_MILLIS),
  }).output().catch(() => {});
}

function exists(path: string): Promise<boolean> {
  return Deno.stat(path).then(() => true, () => false);
}
