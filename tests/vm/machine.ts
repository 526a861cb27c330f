// SPDX-License-Identifier: Apache-2.0
/**
 * What the tests in a virtual machine (`scripts/vm`) share beside what those in namespaces have. With
 * an emulated processor everything takes some twenty times as long.
 */

import { fileURLToPath } from "node:url";
import { strict as assert } from "node:assert";
import type { Finding } from "../../cli/check.ts";
import { selfCommand } from "../../cli/command.ts";
import { Appliance, type Lab, type Namespace } from "../netns/lab.ts";

export { Appliance };
export { eventually, labTest, type Namespace, refusal, xdpProgram } from "../netns/lab.ts";
export { assertBalanced } from "../netns/wire_balance.ts";

const START_MILLIS = 240_000;
const ANSWER_MILLIS = 10_000;
/** How long the absence of an answer is watched. */
export const SILENCE_MILLIS = 1_000;

/** The two namespaces of a test, with nothing in them but a loopback device. */
export async function ends(lab: Lab): Promise<{ host: Namespace; client: Namespace }> {
  return { host: await lab.namespace("host"), client: await lab.namespace("client") };
}

/** Gives one of the machine's NICs to a namespace, which when it is deleted gives it back, down. */
export async function plug(
  namespace: Namespace,
  name: string,
  address: string,
): Promise<void> {
  const args = ["link", "set", name, "netns", namespace.name];
  const { success, stderr } = new Deno.Command("ip", { args }).outputSync();
  assert.ok(success, new TextDecoder().decode(stderr));
  await namespace.batch([`address add ${address}/24 dev ${name}`, `link set ${name} up`]);
}

/** Starts the echo service and waits until it is ready. */
export async function serve(
  host: Pick<Namespace, "spawn">,
  interfaces: readonly string[],
  args: readonly string[] = [],
): Promise<Appliance> {
  const named = interfaces.flatMap((name) => ["--interface", name]);
  const appliance = Appliance.launch(host, [...named, "--listen", "7=echo", ...args]);
  await appliance.process.stderr.find("ready:", { timeoutMs: START_MILLIS }).catch(() => {});
  await appliance.ready();
  return appliance;
}

/** How many of `count` requests, each from another port, are answered rightly. */
export async function answered(
  client: Namespace,
  { source, target, count = 3, timeoutMs = ANSWER_MILLIS }: {
    source: string;
    target: string;
    count?: number;
    timeoutMs?: number;
  },
): Promise<number> {
  const program = fileURLToPath(new URL("./echo_client.py", import.meta.url));
  return Number(
    await client.run(["/usr/bin/python3", program, source, target, `${count}`, `${timeoutMs}`]),
  );
}

/** What differs between what the appliance has mirrored and the kernel's tables. */
export async function divergent(host: Namespace): Promise<number> {
  return JSON.parse(await host.run([...selfCommand(), "audit", "-j"])).divergent;
}

/** What `tegula check` finds wrong with an interface. */
export async function troubles(host: Namespace, name: string): Promise<Finding[]> {
  const process = host.spawn([...selfCommand(), "check", "-j", "--interface", name]);
  await process.ended();
  const said = process.stdout.all.join("");
  assert.match(said, /^\[/, process.stderr.all.join("\n"));
  const findings: Finding[] = JSON.parse(said);
  return findings.filter(({ subject, verdict }) => subject === name && verdict !== "ok");
}
