// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel's side of the mirror's benchmarks: a veth pair in the benchmark's namespace, and `ip -batch` files that fill
 * and change its tables.
 *
 *     v0 198.18.0.1/24 ───── v1       gateways 198.18.0.2 to .201; neighbours from 198.18.1.0 on
 */

import { formatAddress, formatPrefix } from "../netbase/route.ts";
import { prefixes } from "./routes.ts";

/** The interface of all routes and neighbours. */
export const INTERFACE = "v0";
export const ADDRESS = "198.18.0.1";
/** First gateway, host order, and how many there are. */
export const GATEWAY = 0xc6120002;
const GATEWAYS = 200;
const FIRST_NEIGHBOR = 0xc6120100;
/** The folder of batch files: in memory, and removed with the laboratory. */
const FOLDER = "/run";

/** Runs `ip` with the words of `command` and returns its output. Throws Error. */
export function ip(command: string): string {
  const { success, stdout, stderr } = new Deno.Command("ip", {
    args: command.split(" "),
    stdout: "piped",
    stderr: "piped",
  }).outputSync();
  if (success) return new TextDecoder().decode(stdout);
  throw new Error(`ip ${command}: ${new TextDecoder().decode(stderr).trim()}`);
}

/** Makes the links and returns the index of v0. */
export function layLinks(): number {
  ip("link set lo up");
  ip(`link add ${INTERFACE} type veth peer name v1`);
  ip(`addr add ${ADDRESS}/24 dev ${INTERFACE}`);
  for (const name of [INTERFACE, "v1"]) ip(`link set ${name} up`);
  return (JSON.parse(ip(`-j link show dev ${INTERFACE}`)) as { ifindex: number }[])[0].ifindex;
}

/** Commands for `ip`, in a file, which can be run repeatedly. */
export class Batch {
  readonly size: number;
  readonly #path: string;

  constructor(name: string, commands: readonly string[]) {
    this.size = commands.length;
    this.#path = `${FOLDER}/${name}.batch`;
    Deno.writeTextFileSync(this.#path, commands.join("\n") + "\n");
  }

  /** Runs the commands to their end. */
  run(): void {
    ip(`-batch ${this.#path}`);
  }

  /** Starts the commands. Settles at their end. */
  async start(): Promise<void> {
    const child = new Deno.Command("ip", { args: ["-batch", this.#path], stdout: "null" }).spawn();
    if (!(await child.status).success) throw new Error(`ip -batch ${this.#path} failed`);
  }
}

/** `count` permanent neighbours, with MACs of one `family`. */
export function neighborBatch(count: number, family: number): Batch {
  const commands = Array.from({ length: count }, (_, i) => {
    const mac = [2, family, 0, i >>> 16, (i >>> 8) & 0xff, i & 0xff];
    const text = mac.map((byte) => byte.toString(16).padStart(2, "0")).join(":");
    const address = formatAddress(FIRST_NEIGHBOR + i);
    return `neigh replace ${address} lladdr ${text} dev ${INTERFACE} nud permanent`;
  });
  return new Batch(`neighbors-${family}`, commands);
}

/**
 * `count` prefixes in the mix of lengths of a full internet table, as destination and length in turn,
 * none of which touches the benchmark's own addresses or loopback.
 */
export function fullTable(count: number): Uint32Array {
  const table = prefixes(count + (count >>> 4) + 1000);
  const out = new Uint32Array(count * 2);
  let used = 0;
  for (let i = 0; used < out.length && i < table.length; i += 2) {
    if (isOurs(table[i], table[i + 1])) continue;
    out[used++] = table[i];
    out[used++] = table[i + 1];
  }
  return out;
}

function isOurs(destination: number, length: number): boolean {
  const mask = -1 << (32 - length);
  const overlaps = (other: number, otherLength: number) =>
    ((destination ^ other) & mask & (-1 << (32 - otherLength))) === 0;
  return overlaps(0xc6120000, 15) || overlaps(0x7f000000, 8);
}

/** `verb`s routes to `table`'s prefixes, from the first on; another `shift` is another gateway. */
export function routeBatch(
  table: Uint32Array,
  { verb, count, shift }: { verb: "add" | "replace"; count: number; shift: number },
): Batch {
  const commands = Array.from({ length: count }, (_, i) => {
    const prefix = formatPrefix(table[i * 2], table[i * 2 + 1]);
    return `route ${verb} ${prefix} via ${formatAddress(gatewayOf(i, shift))} dev ${INTERFACE}`;
  });
  return new Batch(`routes-${verb}-${count}-${shift}`, commands);
}

/** Gateway of the `i`-th route, host order. */
function gatewayOf(i: number, shift: number): number {
  return GATEWAY + ((Math.imul(i, 0x9e3779b1) >>> 8) + shift) % GATEWAYS;
}
