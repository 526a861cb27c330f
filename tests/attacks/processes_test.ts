// SPDX-License-Identifier: Apache-2.0
/**
 * What code that took over an app's process could try from inside: against the master, against another
 * app's process, against the kernel. Each process is started as the master starts it (`ffi/process.ts`),
 * and another beside it has to answer everything that it is asked meanwhile.
 */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openHost } from "../../ffi/host.ts";
import { libraryPath } from "../../ffi/library.ts";
import {
  type Channel,
  type ConfinedProcess,
  type Ending,
  FIRST_DESCRIPTOR,
  openChannel,
  openProcesses,
  RUN_FLAGS,
} from "../../ffi/process.ts";
import { openRegions } from "../../ffi/region.ts";
import { OBSERVED_CALLS } from "../../ffi/shared.ts";
import { openObserver, openTile } from "../../ffi/tile.ts";
import { eventually } from "../eventually.ts";
import {
  ACCEPTING_CALLS,
  allowedErrors,
  type Attempt,
  attemptsOn,
  type Call,
  inject,
  numberOf,
  type Place,
  readOnlyDescriptors,
  statusOf,
  threadsOf,
} from "./calls.ts";
import { HARMS } from "./harms.ts";

const VICTIM = fileURLToPath(new URL("./victim.js", import.meta.url));
const SLOTS = 2;
const processes = openProcesses();
const regions = openRegions();
const tile = openTile();
const counters = new Uint32Array(new SharedArrayBuffer(4 * SLOTS * OBSERVED_CALLS));
openObserver().start(counters);
const observer = openObserver();
const region = regions.createShared("attacks", 4096);
const eventfd = openHost().eventfd();
const listener = openHost().listenTcp("127.0.0.1", 0);
/** Where an app finds that. */
const EVENTFD = FIRST_DESCRIPTOR + 2;

/** A folder that every user can read, with what a process loads. */
const FOLDER = makeFolder();

function makeFolder(): string {
  const folder = Deno.makeTempDirSync({ prefix: "tegula-attacks-" });
  Deno.copyFileSync(VICTIM, `${folder}/victim.js`);
  Deno.copyFileSync(libraryPath(), `${folder}/libtegula.so`);
  for (const path of [folder, `${folder}/victim.js`, `${folder}/libtegula.so`]) {
    Deno.chmodSync(path, 0o755);
  }
  return folder;
}

const moment = (ms = 1) => new Promise((resolve) => setTimeout(resolve, ms));
const encode = (text: string) => new TextEncoder().encode(text);

/** An app's process, which echoes messages of its channel. */
class App {
  readonly child: ConfinedProcess;
  readonly channel: Channel;
  readonly #slot: number;
  readonly #before: Uint32Array;
  #ending: Ending | null = null;

  private constructor(slot: number, { accept = false } = {}) {
    this.#slot = slot;
    const library = `${FOLDER}/libtegula.so`;
    const script = `${FOLDER}/victim.js`;
    const permissions = [`--allow-read=${script}`, `--allow-ffi=${library}`];
    this.child = processes.start({
      name: `app${slot}`,
      args: [...RUN_FLAGS, ...permissions, script, library],
      descriptors: [region.writable, region.readOnly, eventfd, ...accept ? [listener] : []],
      accept,
      read: [FOLDER],
      uid: 61_000 + slot,
      memoryMib: 256 + 2 * 530, // with two workers, for which V8 reserves as much again
    });
    const { words, channel } = this.child;
    this.#before = counters.slice(slot * OBSERVED_CALLS, (slot + 1) * OBSERVED_CALLS);
    observer.hear({ name: `app${slot}`, slot, listener: this.child.listener, words });
    this.channel = openChannel(channel);
  }

  /** Starts one and waits until it echoes. */
  static async start(slot: number, options?: { accept: boolean }): Promise<App> {
    const app = new App(slot, options);
    equal(await app.heard(), "ready");
    return app;
  }

  /** The next message. */
  async heard(): Promise<string> {
    return await eventually("a message", () => {
      const message = this.channel.receive();
      if (this.ending() !== null) throw new Error("the process has ended");
      return Promise.resolve(message ? new TextDecoder().decode(message) : undefined);
    });
  }

  async asked(text: string): Promise<string> {
    ok(this.channel.send(encode(text)), "there is room for the message");
    return await this.heard();
  }

  /** How it ended, reaped; null as long as it runs. */
  ending(): Ending | null {
    return this.#ending ??= this.child.wait();
  }

  /** How often each call was refused since the start, by name. */
  get refused(): Record<string, number> {
    const now = counters.subarray(this.#slot * OBSERVED_CALLS, (this.#slot + 1) * OBSERVED_CALLS);
    return Object.fromEntries(
      Array.from(now, (count, call) => [tile.callName(call), count - this.#before[call]] as const)
        .filter(([, count]) => count > 0),
    );
  }

  /** Ends it, and returns how it ended. */
  async end(): Promise<Ending> {
    this.child.kill();
    const ending = await eventually("its end", () => Promise.resolve(this.ending() ?? undefined));
    this.child.close();
    return ending;
  }
}

/** Two apps; the second is asked all the time that `body` takes, and has to answer everything. */
async function besideAnother(
  body: (app: App, place: Place) => Promise<void>,
  options?: { accept: boolean },
): Promise<void> {
  const [app, other] = [await App.start(0, options), await App.start(1)];
  const place = {
    ...{ master: Deno.pid, other: other.child.pid, self: app.child.pid },
    readOnly: readOnlyDescriptors(app.child.pid),
  };
  let [asking, asked] = [true, 0];
  const beside = (async () => {
    for (; asking; asked++) equal(await other.asked(`question ${asked}`), `question ${asked}`);
  })();
  await body(app, place);
  asking = false;
  await beside;
  ok(asked > 0);
  deepEqual(other.refused, {});
  await other.end();
  if (app.ending() === null) await app.end();
  else app.child.close();
  // Its successor is not the worse for it.
  const successor = await App.start(0);
  equal(await successor.asked("and now?"), "and now?");
  await successor.end();
}

/** Refused by the seal, or by an error that the filter gives by itself: nobody counts these. */
const UNCOUNTED = new Set([
  ...["execve", "execveat", "seccomp", "sendmsg"],
  ...["clone3", "io_uring_setup", "openat2", "openat", "mkdir", "mkdirat", "unlink", "unlinkat"],
  // The kernel refuses these: an app's descriptors and limits are its own to use.
  ...["mmap of memory to read", "write", "prlimit64"],
]);

Deno.test("every thread of an app's process is confined, as the kernel says", async () => {
  await besideAnother(async (app) => {
    const { pid, missing } = app.child;
    deepEqual(missing, []);
    const before = threadsOf(pid).length;
    // What starts late: another isolate's thread, and those that work for it.
    const late =
      "new Worker('data:text/javascript,setInterval(() => {}, 1000)', { type: 'module' });" +
      "crypto.subtle.digest('SHA-256', new Uint8Array(1 << 24)); say('late');";
    equal(await app.asked(`run ${late}`), "late");
    await eventually(
      "more threads",
      () => Promise.resolve(threadsOf(pid).length > before || undefined),
    );
    for (const tid of threadsOf(pid)) {
      const { Seccomp, NoNewPrivs, Uid, Groups, ...status } = statusOf(pid, tid);
      deepEqual({ Seccomp, NoNewPrivs, Groups }, { Seccomp: "2", NoNewPrivs: "1", Groups: "" });
      deepEqual(Uid.split(/\s+/), Array(4).fill("61000"));
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
        equal(parseInt(status[set], 16), 0, `${set} of ${status.Name}`);
      }
    }
  });
});

for (
  const [whose, more, options] of [
    ["an app's process", {}, { accept: false }],
    ["a slow side that accepts connections", ACCEPTING_CALLS, { accept: true }],
  ] as const
) {
  Deno.test(`no thread of ${whose} gets out by a system call`, async () => {
    await besideAnother((app, place) => staysInside(app, place, Object.entries(more)), options);
  });
}

async function staysInside(app: App, place: Place, more: [string, Attempt][]): Promise<void> {
  ok(place.readOnly.length > 0, "it has memory that it may only read");
  const attempts = [...attemptsOn(place), ...more];
  ok(attempts.length > 100, `${attempts.length} attempts`);
  for (const tid of threadsOf(app.child.pid)) {
    const outcomes = await inject(tid, attempts.map(([, { call }]) => call), place);
    const wrong = attempts.filter(([, attempt], i) => {
      return !allowedErrors(attempt).includes(outcomes[i] ?? 0);
    }).map(([what], i) => `${what}: ${outcomes[attempts.findIndex(([w]) => w === what)] ?? i}`);
    deepEqual(wrong, []);
  }
  const { refused } = app;
  const silent = attempts.filter(([, { call: [name] }]) =>
    !UNCOUNTED.has(name) && !(name in refused) && numberOf(name)! < OBSERVED_CALLS - 1 &&
    name !== "mmap"
  );
  deepEqual(silent.map(([what]) => what), [], "each refusal is counted by its name");
  equal(await app.asked("still here?"), "still here?");
  equal(app.ending(), null);
}

for (const [what, { runs, ends, goesOn = false }] of Object.entries(HARMS)) {
  Deno.test(`${what}: it is alone in that`, async () => {
    await besideAnother(async (app) => {
      if (runs !== undefined) ok(app.channel.send(encode(`run ${runs}`)));
      if (ends !== undefined) {
        const ending = await eventually(
          "its end",
          () => Promise.resolve(app.ending() ?? undefined),
        );
        deepEqual({ ...ending, ...ends }, ending);
      } else if (goesOn) {
        match(await app.heard(), /./);
        equal(await app.asked("still here?"), "still here?");
      } else {
        // The caller takes what comes, and continues with the other.
        for (let i = 0; i < 300; i++) {
          app.channel.receive();
          await moment();
        }
        await app.end();
      }
    });
  });
}

Deno.test("it flips flags of what it shares, and counts up what wakes others", async () => {
  await besideAnother(async (app, place) => {
    const [F_DUPFD, F_SETFL, F_DUPFD_CLOEXEC, FIONBIO] = [0, 4, 1030, 0x5421];
    const files = `/proc/${app.child.pid}/fd`;
    const descriptors = [...Deno.readDirSync(files)].map(({ name }) => Number(name));
    // Its own end of the channel, and the eventfd after the two of memory.
    const shared = [3, EVENTFD];
    match(Deno.readLinkSync(`${files}/${EVENTFD}`), /eventfd/);
    const flags = () =>
      shared.map((fd) =>
        /^flags:.*/m.exec(Deno.readTextFileSync(`/proc/${app.child.pid}/fdinfo/${fd}`))![0]
      );
    const before = flags();
    const no = new Uint8Array(4);
    const changes = shared.flatMap((fd): Call[] => [
      ["fcntl", fd, F_SETFL, 0],
      ["fcntl", fd, F_DUPFD, 0],
      ["fcntl", fd, F_DUPFD_CLOEXEC, 0],
      ["ioctl", fd, FIONBIO, no],
    ]);
    const outcomes = await inject(app.child.pid, changes, place);
    deepEqual(outcomes, changes.map(() => -1));
    deepEqual(flags(), before);
    deepEqual(app.refused, { fcntl: 6, ioctl: 2 });
    // Of all others it may; and what is full stays so.
    const calls = descriptors.map((fd): Call => ["fcntl", fd, F_SETFL, 0]);
    const others = (await inject(app.child.pid, calls, place))
      .filter((_, i) => !shared.includes(descriptors[i]));
    deepEqual(others, others.map(() => 0));
    const most = new Uint8Array([0xfe, ...Array(7).fill(0xff)]);
    deepEqual(await inject(app.child.pid, [["write", EVENTFD, most, 8]], place), [8]);
    // The caller waits for nothing that it does not have: neither to wake it, nor to be woken.
    tile.wake(eventfd);
    equal(tile.wait(eventfd, 1000), 1);
    equal(tile.wait(eventfd, 0), 0);
    for (let i = 0; i < 100; i++) app.channel.receive();
    app.channel.send(encode("x"));
  });
});
