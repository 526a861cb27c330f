// SPDX-License-Identifier: Apache-2.0
/**
 * A master that executes itself in its own place, for `process_test.ts`, and what became of its child
 * and of itself. Arguments: the folder of `process_child.js`, the folder that it may write in, and, the
 * second time, what it knows of the child. Prints an `Upgraded`.
 */

import { openHost } from "../../../ffi/host.ts";
import {
  type ConfinedProcess,
  type Ending,
  type KnownProcess,
  openChannel,
  openProcesses,
  RUN_FLAGS,
} from "../../../ffi/process.ts";
import { OBSERVED_CALLS } from "../../../ffi/shared.ts";
import { openObserver, openTile, SLOT_BYTES } from "../../../ffi/tile.ts";

export interface Upgraded {
  /** Its number before and after. */
  readonly pids: readonly [number, number];
  readonly parentOfChild: number;
  /** What the child answered after it. */
  readonly answer: string;
  readonly refused: readonly string[];
  /** Whether a wait for the child's end ended by its end, and how that was. */
  readonly ready: number;
  readonly ending: Ending;
  /** Missing walls of a child that is started afterwards, and what it says. */
  readonly next: { readonly missing: readonly string[]; readonly answer: string };
  /** Of each of its threads: no_new_privs, effective and bounding capabilities. */
  readonly threads: readonly string[];
  /** What it tried. */
  readonly tried: { readonly [what: string]: string };
}

const [folder, writable, known] = Deno.args;
const host = openHost();
const processes = openProcesses();
const observer = openObserver();
const tile = openTile();
const counters = new Uint32Array(new SharedArrayBuffer(SLOT_BYTES));
observer.start(counters);

function start(): ConfinedProcess {
  const library = `${folder}/attacks.so`;
  const child = processes.start({
    name: "child",
    args: [
      ...[...RUN_FLAGS, `--allow-read=${folder}`, `--allow-ffi=${library}`],
      ...[`${folder}/process_child.js`, "answer", library],
    ],
    read: [folder],
  });
  observer.hear({ ...child, slot: 0 });
  return child;
}

/** What the child makes of `text`. */
async function answerOf(child: KnownProcess, text: string): Promise<string> {
  const channel = openChannel(child.channel);
  channel.send(new TextEncoder().encode(text));
  await host.waitAny(Int32Array.of(child.channel, 1), 20_000);
  return new TextDecoder().decode(channel.receive() ?? new Uint8Array());
}

function tried(attempt: () => unknown): string {
  try {
    attempt();
    return "done";
  } catch (error) {
    return (error as Error).name;
  }
}

if (known === undefined) {
  const child = start();
  const first = await answerOf(child, "first");
  if (first !== "first") throw new Error(`the child answers ${first}`);
  const failed = host.execKeeping(["/nonexistent/program"], {}, [child.words]);
  if (failed !== -2) throw new Error(`executing nothing returns ${failed}`);
  observer.pause();
  const { pid, pidfd, words, listener, missing, name } = child;
  const kept = JSON.stringify({
    name,
    pid,
    pidfd,
    channel: child.channel,
    words,
    listener,
    missing,
  });
  const failure = host.execKeeping(
    [
      ...[Deno.execPath(), "run", "--allow-all", "--no-check", "--no-lock"],
      ...[import.meta.filename!, folder, writable, JSON.stringify([Deno.pid, kept])],
    ],
    Deno.env.toObject(),
    [pidfd, child.channel, words, listener],
    { write: [writable], connectTcp: true },
  );
  throw new Error(`it cannot execute itself: ${failure}`);
}

const [before, kept] = JSON.parse(known) as [number, string];
const child = processes.adopt(JSON.parse(kept));
observer.hear({ ...child, slot: 0 });
const status = Deno.readTextFileSync(`/proc/${child.pid}/status`);
const answer = await answerOf(child, "attack");
const refused = [...counters.subarray(0, OBSERVED_CALLS).entries()]
  .filter(([, count]) => count > 0).map(([call]) => tile.callName(call));
const ended = host.waitAny(Int32Array.of(child.pidfd, 1), 20_000);
child.kill();
const ready = await ended;
const ending = child.wait()!;
child.close();
const successor = start();
const next = { missing: successor.missing, answer: await answerOf(successor, "second") };
const upgraded: Upgraded = {
  pids: [before, Deno.pid],
  parentOfChild: Number(/^PPid:\s*(\d+)/m.exec(status)![1]),
  answer,
  refused,
  ready,
  ending,
  next,
  threads: [...Deno.readDirSync("/proc/self/task")].map(({ name }) => {
    const text = Deno.readTextFileSync(`/proc/self/task/${name}/status`);
    return ["NoNewPrivs", "CapEff", "CapBnd"]
      .map((field) => new RegExp(`^${field}:\\s*(\\w+)`, "m").exec(text)![1]).join();
  }),
  tried: {
    "write in its folder": tried(() => Deno.writeTextFileSync(`${writable}/file`, "")),
    "listen in its folder": tried(() => host.listenUnix(`${writable}/socket`, 0o600)),
    "write elsewhere": tried(() => Deno.writeTextFileSync(`${folder}/file`, "")),
    "remove elsewhere": tried(() => Deno.removeSync(`${folder}/process_child.js`)),
    "read elsewhere": tried(() => Deno.readTextFileSync("/etc/passwd")),
    "execute": tried(() => new Deno.Command("/bin/true").outputSync()),
    "bind TCP": tried(() => host.listenTcp("127.0.0.1", 0)),
    "connect TCP": await Deno.connect({ hostname: "127.0.0.1", port: 9 }).catch(({ name }) => name),
  },
};
successor.kill();
console.log(JSON.stringify(upgraded));
Deno.exit();
