// SPDX-License-Identifier: Apache-2.0
/**
 * Shared by the black-box tests of the real program: a pair of namespaces, a client that sends requests,
 * and small peers. The tests run in their own namespaces (`scripts/test.ts` puts each file there).
 */

import { fileURLToPath } from "node:url";
import { strict as assert } from "node:assert";
import {
  Appliance as DemoAppliance,
  type Counters,
  Lab,
  type LabProcess,
  type Namespace,
} from "../../demo/lab.ts";
import { within } from "../../tiles/runtime/tile.ts";
import { Client } from "./client.ts";
import { eventually } from "../eventually.ts";
import { assertLeftBalanced } from "./wire_balance.ts";

export { Client, eventually, Lab, type Namespace };

/** Exit statuses of appliances that are expected to end with a status other than 0. */
const expectedStatus = new WeakMap<LabProcess, number>();

/** An appliance whose counters must balance when it is stopped, and that must end as expected. */
export class Appliance extends DemoAppliance {
  override async stop(signal?: Deno.Signal): ReturnType<DemoAppliance["stop"]> {
    await assertLeftBalanced(this.process);
    if (signal === "SIGKILL") expectedStatus.set(this.process, KILLED);
    return await super.stop(signal);
  }
}

/** Exit statuses after SIGKILL, or after a signal of a crash (ILL, TRAP, ABRT, BUS, SEGV, SYS). */
const KILLED = 137;
const CRASHED: readonly number[] = [132, 133, 134, 135, 139, 159];

/** How long an appliance may take to stop: an emulated machine is slow. */
const END_MILLIS = 60_000;

/** The appliance's address in a pair. */
export const HOST = "198.18.0.1";
/** The client's address. */
export const CLIENT = "198.18.0.2";

/** Arguments of `tegula run` for the echo service on the host's eth0. */
export const ECHO: readonly string[] = ["--interface", "eth0", "--listen", "7=echo"];

/** How long an answer may take that normally takes milliseconds: the machine may be busy. */
const PATIENCE_MILLIS = 20_000;
/** How long the first of several attempts waits, and each of them at most. */
const [FIRST_MILLIS, MOST_MILLIS] = [100, 2000];

/**
 * A test with its own laboratory, which is removed afterwards. Appliances that are left running are
 * stopped: their counters must balance, too (`wire_balance.ts`). Each appliance must end with status 0
 * unless the test expects another, and no other program may crash. No tile may have an unexpected
 * system call refused, unless the test is about that (`refusedCalls`). If the kernel has no devices of
 * the kind `needs`, or with `ignore`, the test is skipped, which `tests/skips.txt` must list.
 */
export function labTest(
  name: string,
  body: (lab: Lab, t: Deno.TestContext) => Promise<void>,
  { needs, ignore = needs !== undefined && !hasDeviceKind(needs), refusedCalls = false }: {
    needs?: string;
    ignore?: boolean;
    refusedCalls?: boolean;
  } = {},
): void {
  Deno.test({ name, ignore }, async (t) => {
    refuseOutsideNamespaces();
    await using lab = new Lab();
    try {
      await body(lab, t);
      await assertGoodEnds(lab);
      if (!refusedCalls) assertNothingRefused(lab);
    } catch (error) {
      await showAppliances(lab);
      throw error;
    }
  });
}

/** Whether the kernel supports a kind of device, according to `ip link add … type KIND`. */
function hasDeviceKind(kind: string): boolean {
  const args = ["link", "add", "link", "lo", "name", "kind0", "type", kind];
  const { success, stderr } = new Deno.Command("ip", { args }).outputSync();
  if (success) new Deno.Command("ip", { args: ["link", "delete", "kind0"] }).outputSync();
  return !/Unknown device type|not supported/.test(new TextDecoder().decode(stderr));
}

/** An unexpectedly refused call is a bug in the list of calls, or in an app. */
function assertNothingRefused(lab: Lab): void {
  const lines = lab.processes.flatMap(({ stderr }) => stderr.all);
  assert.deepEqual(lines.filter((line) => line.includes(": refused system call ")), []);
}

/** The appliances that have served, ended or not. */
function appliances(lab: Lab): LabProcess[] {
  return lab.processes.filter(({ stderr }) => stderr.all.some((line) => line.startsWith("ready:")));
}

/** Stops the appliances that still run, and asserts how each of them, and every other program, ended. */
async function assertGoodEnds(lab: Lab): Promise<void> {
  const served = appliances(lab);
  for (const process of served.filter(({ status }) => status === null)) {
    await assertLeftBalanced(process);
    process.kill("SIGTERM");
    // A test may leave it stopped.
    process.kill("SIGCONT");
    assert.ok(await within(process.ended(), END_MILLIS), "the appliance does not stop");
  }
  for (const process of lab.processes) {
    const code = process.status?.code;
    if (served.includes(process)) {
      assert.equal(code, expectedStatus.get(process) ?? 0, "the appliance's exit status");
    } else if (code !== undefined && CRASHED.includes(code)) {
      assert.fail(`a program crashed, status ${code}:\n${process.stderr.all.join("\n")}`);
    }
  }
}

/** Prints the appliances of a failed test: their log, and the counters that are not 0. */
async function showAppliances(lab: Lab): Promise<void> {
  for (const process of appliances(lab)) {
    const from = process.stderr.all.length;
    process.kill("SIGUSR2");
    await process.stderr.find("counters: ", { from, timeoutMs: 1000 }).catch(() => {});
    console.log(process.stderr.all.join("\n").replaceAll(/"\w+":0,?/g, ""));
  }
}

/** Without a private /run/netns a killed test would leave its namespaces on the machine. */
function refuseOutsideNamespaces(): void {
  const mounts = Deno.readTextFileSync("/proc/self/mountinfo");
  if (/ \/ \/run\/netns .* - tmpfs /.test(mounts)) return;
  throw new Error("these tests run in namespaces of their own: deno task test netns");
}

/** The usual two namespaces: `host` eth0 198.18.0.1/24, `client` eth0 198.18.0.2/24. */
export interface Pair {
  readonly host: Namespace;
  readonly client: Namespace;
  readonly asker: Client;
}

/** Builds the usual two namespaces, with a client. */
export async function pair(
  lab: Lab,
  queues: { queues?: number; transmitQueues?: number } = {},
): Promise<Pair> {
  const [host, client] = [await lab.namespace("host"), await lab.namespace("client")];
  await lab.join(
    { namespace: host, name: "eth0", addresses: [`${HOST}/24`] },
    { namespace: client, name: "eth0", addresses: [`${CLIENT}/24`] },
    queues,
  );
  return { host, client, asker: new Client(client) };
}

/**
 * Gives the host a permanent entry for the client's MAC. Only a limited number of answers can wait for
 * it, and a client on a busy machine sends more at once.
 */
export async function introduce({ host, client }: Pick<Pair, "host" | "client">): Promise<void> {
  const [{ address }] = JSON.parse(await client.ip("-j link show dev eth0"));
  await host.ip(`neigh replace ${CLIENT} lladdr ${address} dev eth0 nud permanent`);
}

/** Joins them by eth1 as well, 192.0.2.1/24 and .2, so that answers may take another path than requests. */
export async function secondLink(lab: Lab, { host, client }: Pair): Promise<void> {
  await lab.join(
    { namespace: host, name: "eth1", addresses: ["192.0.2.1/24"] },
    { namespace: client, name: "eth1", addresses: ["192.0.2.2/24"] },
  );
  const settings = ["all", "eth0", "eth1"].map((name) => [`conf/${name}/rp_filter`, 0]);
  for (const namespace of [host, client]) await namespace.sysctl(Object.fromEntries(settings));
}

/** A unique path for a control socket. */
export function socketPath(): string {
  return `${Deno.makeTempDirSync({ prefix: "tegula-test-" })}/control.sock`;
}

/** A question: one datagram. */
export interface Question {
  readonly payload?: string | Uint8Array<ArrayBuffer>;
  readonly source?: string;
  readonly sourcePort?: number;
  readonly target?: string;
  readonly port?: number;
  /** How long to wait for an answer; short if none is expected. */
  readonly timeoutMs?: number;
}

/** The answer; `from` is `address:port`. */
export interface Answer {
  readonly bytes: Uint8Array | null;
  readonly text: string | null;
  readonly from: string | null;
}

/** Sends one request. By default it goes to the host's echo service. */
export async function ask(asker: Client, question: Question = {}): Promise<Answer> {
  const { payload = "hello", source = CLIENT, sourcePort = 0, target = HOST } = question;
  const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
  const { answer, from } = await asker.exchange({
    source,
    sourcePort,
    target,
    port: question.port ?? 7,
    payload: bytes.toHex(),
    timeoutMs: question.timeoutMs ?? PATIENCE_MILLIS,
  });
  if (answer === null) return { bytes: null, text: null, from };
  const back = Uint8Array.fromHex(answer);
  return { bytes: back, text: new TextDecoder().decode(back), from };
}

/** How long to wait to be sure that there is no answer. */
export const SILENCE_MILLIS = 300;

/** Repeats a request until there is an answer, for changes that take time. Throws if there is none. */
export function askUntilAnswered(asker: Client, question: Question = {}): Promise<Answer> {
  let timeoutMs = FIRST_MILLIS;
  return eventually("an answer", async () => {
    const answer = await ask(asker, { ...question, timeoutMs });
    timeoutMs = Math.min(MOST_MILLIS, 2 * timeoutMs);
    return answer.bytes === null ? undefined : answer;
  });
}

/**
 * Waits until a counter has grown by `by` since `before`, and asserts that it has not grown more. An
 * answer may arrive before the tile that sent it has counted it.
 */
export async function assertGrowth(
  appliance: Appliance,
  before: Counters,
  expected: Readonly<Record<string, number>>,
): Promise<void> {
  let grown: Record<string, number> = {};
  await eventually("the counters", async () => {
    const now = await appliance.counters();
    const names = Object.keys(expected);
    grown = Object.fromEntries(names.map((name) => [name, growth(before, now, name)]));
    return names.every((name) => grown[name] >= expected[name]) ? true : undefined;
  }).catch(() => {});
  assert.deepEqual(grown, expected);
}

/** The growth of a counter; 0 if there is no such counter. */
export function growth(before: Counters, after: Counters, name: string): number {
  return (after.get(name) ?? 0) - (before.get(name) ?? 0);
}

/** How often to try something that must be quick, if the machine was busy. */
const CHANCES = 5;
/** How often to check whether the machine lets this process run, and the delay that shows it busy. */
const BEAT_MILLIS = 10;
const HELD_UP_MILLIS = 50;

/**
 * Asserts that something is quick. `attempt` returns what was too slow; undefined: nothing. Each slow attempt
 * counts, since a wake-up that is sometimes lost looks like one that is slow now and then. An attempt during
 * which this process was delayed too does not count: the machine was busy, and it is repeated.
 */
export async function assertPrompt(attempt: () => Promise<string | undefined>): Promise<void> {
  const slow: string[] = [];
  while (slow.length < CHANCES) {
    let heldUp = 0;
    let last = performance.now();
    const beat = setInterval(() => {
      const now = performance.now();
      heldUp = Math.max(heldUp, now - last - BEAT_MILLIS);
      last = now;
    }, BEAT_MILLIS);
    const what = await attempt().finally(() => clearInterval(beat));
    if (what === undefined) return;
    slow.push(`${what}; this process was held up for ${Math.round(heldUp)} ms at most meanwhile`);
    console.log(`slow: ${slow.at(-1)}`);
    if (heldUp < HELD_UP_MILLIS) break;
  }
  assert.fail(slow.join("\n"));
}

/** Waits until an appliance ends on its own, and asserts its exit status. */
export async function assertEnds({ process }: DemoAppliance, code: number): Promise<void> {
  expectedStatus.set(process, code);
  assert.equal((await process.ended()).code, code, process.stderr.all.join("\n"));
}

/** How long a stop may take. */
const STOP_MILLIS = 1000;

/** Asserts that each appliance from `start` ends with status 0 within a second. */
export function assertStopsPromptly(
  start: () => Promise<Appliance>,
  { signal, after = async () => {} }: { signal?: Deno.Signal; after?: () => Promise<void> } = {},
): Promise<void> {
  return assertPrompt(async () => {
    const { code, millis } = await (await start()).stop(signal);
    assert.equal(code, 0);
    await after();
    return millis < STOP_MILLIS ? undefined : `it took ${millis} ms to stop`;
  });
}

/** Waits until running traffic has had `count` answers. */
export async function answeredAtLeast(asker: Client, count: number): Promise<void> {
  await eventually(`${count} answers`, async () => {
    return (await asker.progress()).answered >= count ? true : undefined;
  });
}

/** Waits for a start that must fail. Returns its status, and its final sentence. */
export async function refusal(process: LabProcess): Promise<{ code: number; said: string }> {
  const { code } = await process.ended();
  const lines = process.stderr.all;
  const sentences = lines.filter((line) => line.startsWith("tegula: "));
  assert.deepEqual(
    sentences,
    lines.slice(-1),
    `one sentence at the end, not:\n${lines.join("\n")}`,
  );
  const stack = lines.find((line) => line.includes("\x1b") || /^error|^\s+at /.test(line));
  assert.equal(stack, undefined, `a stack:\n${lines.join("\n")}`);
  return { code, said: sentences[0] };
}

/** The XDP program on an interface according to `ip link`; undefined: there is none. */
export async function xdpProgram(
  namespace: Namespace,
  name = "eth0",
): Promise<{ id: number; name?: string } | undefined> {
  const [link] = JSON.parse(await namespace.ip(`-d -j link show dev ${name}`));
  return link.xdp?.prog;
}

/** Random bytes, so that an answer cannot be right by accident. */
export function noise(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) {
    crypto.getRandomValues(bytes.subarray(at, Math.min(size, at + 65_536)));
  }
  return bytes;
}

/** Starts `peer.ts` in a namespace and waits until it serves. */
export async function peer(namespace: Namespace, ...args: string[]): Promise<LabProcess> {
  const process = namespace.spawn(peerCommand(args));
  await process.stdout.find("serving");
  return process;
}

/** The command line of `peer.ts`. */
export function peerCommand(args: readonly string[]): string[] {
  const program = fileURLToPath(new URL("./peer.ts", import.meta.url));
  return [Deno.execPath(), "run", "--allow-net", "--no-check", program, ...args];
}
