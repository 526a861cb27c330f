// SPDX-License-Identifier: Apache-2.0
/**
 * Apps in processes of their own, without the rest of an appliance: what ends one, that it alone is
 * started again, and that nothing of it costs an echo beside it a datagram.
 */

import { strict as assert } from "node:assert";
import { libraryPath, ROOT } from "../../../ffi/library.ts";
import type { AppProcessPlan } from "../../../master/app_process.ts";
import { NO_GRANTS } from "../../no_grants.ts";
import { eventually } from "../../eventually.ts";
import { closeFiles, EchoLink, refusedCalls, start, takeOver } from "./echo_link.ts";

const HOSTILE = `file://${ROOT}tests/fixtures/app/hostile.ts`;
/** Signals of the kernel are what ends a process here, under load from elsewhere, too. */
const PATIENCE_MS = 60_000;

/** Runs `act` with the app of `module` beside an echo that is asked all the while. */
async function beside(
  module: string,
  act: (its: {
    link: EchoLink;
    app: ReturnType<EchoLink["process"]>;
    lines: string[];
    said(pattern: RegExp): Promise<string>;
  }) => Promise<void>,
  changes: Partial<AppProcessPlan> = {},
): Promise<void> {
  const [link, other] = [new EchoLink("hostile"), new EchoLink("echo")];
  const lines: string[] = [];
  const app = link.process(link.plan(module, changes), (line) => lines.push(line));
  const echo = other.process(other.plan(), (line) => lines.push(line));
  await Promise.all([start(app), start(echo)]);
  const { pid } = echo;
  const load = setInterval(() => {
    other.send(4);
    other.take();
  }, 2);
  try {
    await act({
      link,
      app,
      lines,
      said: (pattern) =>
        eventually(
          `${pattern}`,
          () => Promise.resolve(lines.find((line) => pattern.test(line))),
          { timeoutMs: PATIENCE_MS },
        ).catch((error) => {
          throw new Error(`${error.message} in\n${lines.slice(-20).join("\n")}`);
        }),
    });
    const { answered } = other;
    await eventually("answers of the echo", () => {
      return Promise.resolve(other.answered > answered + 100 ? true : undefined);
    }, { timeoutMs: PATIENCE_MS });
  } finally {
    clearInterval(load);
    await other.settle(PATIENCE_MS / 1000);
    await Promise.all([app.stop(), echo.stop()]);
  }
  assert.equal(other.answered, other.sent);
  assert.equal(other.repeated, 0);
  assert.equal(lines.some((line) => line.startsWith("echo:")), false, lines.join("\n"));
  assert.notEqual(pid, 0);
  for (const each of [link, other]) each.close();
}

/** Who sees first that there is no memory: the master, V8, or Deno as it makes a thread (status 1). */
const NO_MEMORY =
  /^hostile: (killed( by SIG|: its memory is \d+ MiB, above its limit of 96 MiB;)|ended: it left with status 1).*starting it again/;
/** Words of the fixture that end it, what the log says then, and how often it may end for one. */
const ENDS: readonly [word: string, said: RegExp, changes?: Partial<AppProcessPlan>][] = [
  ["spin", /^hostile: killed: it hangs; starting it again in \d+ ms$/],
  ["leak", NO_MEMORY, { memoryMib: 96 }],
  ["heap", NO_MEMORY, { memoryMib: 96 }],
  ["exit", /^hostile: ended: it left with status 3; starting it again in 50 ms$/],
  [
    "store",
    /^hostile: killed by SIGSEGV \(it crashed in native code\); starting it again in 50 ms$/,
  ],
];

for (const [word, said, changes] of ENDS) {
  Deno.test(`an app that does "${word}" is ended and started again alone`, async () => {
    await beside(HOSTILE, async ({ link, app, said: isSaid }) => {
      const { pid } = app;
      link.send(1, word);
      await isSaid(said);
      // The second start skips what made the first one end.
      await eventually("another process", () => {
        return Promise.resolve(app.pid !== 0 && app.pid !== pid && link.isRunning || undefined);
      }, { timeoutMs: PATIENCE_MS });
      await answers(link);
    }, changes);
  });
}

/** Waits until the app answers: what was sent to one before it may have been skipped. */
async function answers(link: EchoLink): Promise<void> {
  const { answered } = link;
  await eventually("an answer", () => {
    link.send(1);
    link.take();
    return Promise.resolve(link.answered > answered || undefined);
  }, { timeoutMs: PATIENCE_MS });
}

for (const word of ["log", "console", "metrics", "link"]) {
  Deno.test(`an app that floods its ${word} goes on, and floods nobody else's`, async () => {
    await beside(HOSTILE, async ({ link, app, lines }) => {
      const { pid } = app;
      link.send(1, word);
      await answers(link);
      assert.equal(app.pid, pid);
      assert.ok(lines.length <= 102, `${lines.length} lines`);
    });
  });
}

/**
 * A program in the place of an app's process, which has the whole process to itself: what it does, and
 * how its start fails then.
 */
const PROGRAMS: readonly [does: string, program: string, failure: RegExp][] = [
  ["floods its channel", "for (;;) say({ type: 'beat' });", /^it floods its channel$/],
  [
    "lies that its loop runs",
    "say({ type: 'running' });",
    /^it sent a message of type running out/,
  ],
  ["says nonsense", "write('{');", /^it sent a message that cannot be read$/],
  ["says what no app says", "say({ type: 'root' });", /^it sent a message of unknown type$/],
  ["says no object", "say(null);", /^it sent a message of unknown type$/],
  [
    "says a line that is none",
    "say({ type: 'log', line: 7 });",
    /^it sent a malformed message of type log$/,
  ],
  [
    "says too long a line",
    "say({ type: 'log', line: 'x'.repeat(9000) });",
    /^it sent a malformed message/,
  ],
  ["aborts", "native.abort();", /^killed by SIG(ABRT|SEGV|ILL|TRAP) \(it .*\)$/],
  ["crashes in native code", "native.free(native.memset);", /^killed by SIG(SEGV|ABRT) \(it .*\)$/],
  ["leaves with a status", "Deno.exit(7);", /^ended: it left with status 7$/],
  [
    "closes its channel and waits",
    "native.close(3); Atomics.wait(words, 0, 0);",
    /^its start hangs$/,
  ],
  ["stands still", "Atomics.wait(words, 0, 0);", /^its start hangs$/],
];

for (const [does, program, failure] of PROGRAMS) {
  Deno.test(`a process that ${does} does not start, and harms nobody`, async () => {
    const root = Deno.makeTempDirSync();
    Deno.chmodSync(root, 0o755);
    Deno.mkdirSync(`${root}/build/program/tiles/app`, { recursive: true });
    Deno.copyFileSync(libraryPath(), libraryPath(`${root}/`));
    Deno.writeTextFileSync(`${root}/build/program/imports.json`, "{}");
    Deno.writeTextFileSync(
      `${root}/build/program/tiles/app/process.js`,
      `const native = Deno.dlopen("${libraryPath(`${root}/`)}", {
        write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
        close: { parameters: ["i32"], result: "i32" },
        abort: { parameters: [], result: "void" },
        free: { parameters: ["usize"], result: "void" },
      }).symbols;
      native.memset = 4096n;
      const words = new Int32Array(new SharedArrayBuffer(4));
      const write = (text) => {
        const bytes = new TextEncoder().encode(text);
        native.write(3, bytes, BigInt(bytes.length));
      };
      const say = (message) => write(JSON.stringify(message));
      ${program}
      setInterval(() => {}, 1000);`,
    );
    const echo = new EchoLink();
    const other = echo.process();
    await start(other);
    const { pid } = other;
    const link = new EchoLink("hostile");
    const app = link.process(link.plan(), () => {}, `${root}/`);
    await assert.rejects(start(app), (error: Error) => {
      assert.match(error.message, failure);
      return true;
    });
    echo.send(10);
    await echo.settle(PATIENCE_MS / 1000);
    assert.equal(other.pid, pid);
    await Promise.all([app.stop(), other.stop()]);
    for (const each of [link, echo]) each.close();
    Deno.removeSync(root, { recursive: true });
  });
}

Deno.test("an app that is killed is started again, and answers what waited", async () => {
  await beside(HOSTILE, async ({ link, app, said }) => {
    link.send(8);
    Deno.kill(app.pid, "SIGKILL");
    link.send(8);
    await said(/^hostile: killed by SIGKILL .*; starting it again in 50 ms$/);
    await link.settle(PATIENCE_MS / 1000);
  });
});

Deno.test("an app that was stopped is hung, though it slept", async () => {
  await beside(HOSTILE, async ({ link, app, said }) => {
    Deno.kill(app.pid, "SIGSTOP");
    await said(/^hostile: killed: it hangs; starting/);
    await answers(link);
  });
});

const HONEST = `file://${ROOT}tests/fixtures/app/honest.ts`;

/** An app that reads `file`, and is started in `module`. */
function honest(module: string, changes: Partial<AppProcessPlan> = {}, options = {}) {
  const file = Deno.makeTempFileSync();
  Deno.writeTextFileSync(file, "seven b");
  Deno.chmodSync(file, 0o644);
  Deno.chmodSync(file.slice(0, file.lastIndexOf("/")), 0o1777);
  const link = new EchoLink("honest");
  const lines: string[] = [];
  const plan = link.plan(module, { grants: { ...NO_GRANTS, read: [file] }, ...changes });
  const app = link.process(
    { ...plan, service: { ...plan.service, options: { file, ...options } } },
    (line) => lines.push(line),
  );
  return { link, lines, app, file };
}

Deno.test("an app in TypeScript has an event loop as it starts, also late, and its own place", async () => {
  const { link, lines, app } = honest(HONEST, {}, { lateMillis: 12_000 });
  await start(app);
  assert.deepEqual(lines.filter((line) => !line.includes("has not ended")), [
    "honest: digest 186",
    "honest: file 7",
    `honest: here ${HONEST}`,
  ]);
  await app.stop();
  link.close();
});

Deno.test("what never ends in a handler is named once, with its place", async () => {
  const { link, lines, app, file } = honest(HONEST);
  await start(app);
  for (const word of ["timer", "timer", "fetch", "fetch", "file", "thrown"]) link.send(1, word);
  await eventually("lines", () => Promise.resolve(lines.length >= 7 || undefined), {
    timeoutMs: PATIENCE_MS,
  });
  const place = HONEST.slice("file://".length).replaceAll(".", "\\.");
  const patterns = [
    `^honest: answer\\(\\) started a timer \\(setTimeout at ${place}:17\\), which never fires there: `,
    `^honest: answer\\(\\) made a promise \\(fetch at ${place}:18\\), which never settles there: `,
    `^honest: the app threw.*: it has no read access to "${file}": its grants in \\[apps\\] end with`,
    `^honest: the app threw.*as I was told(.|\\n)*${place}:21`,
  ];
  for (const [i, pattern] of patterns.entries()) {
    const found = lines.filter((line) => new RegExp(pattern).test(line));
    assert.equal(found.length, 1, `${i}: ${pattern} in\n${lines.join("\n")}`);
  }
  await app.stop();
  link.close();
});

Deno.test("an app whose files its user cannot read is started from a copy", async () => {
  const folder = Deno.makeTempDirSync();
  Deno.mkdirSync(`${folder}/honest`);
  for (const name of ["honest.ts", "honest/checksum.ts"]) {
    Deno.copyFileSync(`${ROOT}tests/fixtures/app/${name}`, `${folder}/${name}`);
  }
  const { link, lines, app } = honest(`file://${folder}/honest.ts`);
  await start(app);
  assert.match(lines.at(-1)!, new RegExp(`^honest: here file:///.+${folder}/honest.ts$`));
  await app.stop();
  link.close();
});

Deno.test("what an app is not granted is an error of its start that names the grant", async () => {
  const { link, app, file } = honest(HONEST, { grants: NO_GRANTS });
  await assert.rejects(start(app), {
    message: `it has no read access to "${file}": [apps] grants it, read = ["${file}"]`,
  });
  await app.stop();
  link.close();
});

Deno.test("a program that is closed to the app's user is copied, and the app is started", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "tegula-closed-" });
  const parts = [
    "apps",
    "cli",
    "demo",
    "ffi",
    "master",
    "netbase",
    "tiles",
    "build",
    "deno.json",
    "deno.lock",
  ];
  const copied = await new Deno.Command("cp", {
    args: ["-r", "--preserve=timestamps", ...parts.map((part) => ROOT + part), folder],
  }).output();
  assert.ok(copied.success);
  Deno.mkdirSync(`${folder}/tests/netns/app`, { recursive: true });
  for (const test of ["tests/netns/app/echo_link.ts", "tests/no_grants.ts"]) {
    Deno.copyFileSync(ROOT + test, `${folder}/${test}`);
  }
  Deno.writeTextFileSync(
    `${folder}/start.ts`,
    `import { closeFiles, EchoLink, start } from "./tests/netns/app/echo_link.ts";
    const link = new EchoLink();
    const app = link.process();
    await start(app);
    link.send(1);
    await link.settle(${PATIENCE_MS / 1000});
    console.log("answered", link.answered);
    await app.stop();
    closeFiles();
    Deno.exit();`,
  );
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", "--cached-only", `${folder}/start.ts`],
  }).output();
  const [said, words] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assert.equal(said, "answered 1\n", words);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("a granted file that the app's user cannot read is an error that says so", async () => {
  const { link, app, file } = honest(HONEST);
  Deno.chmodSync(file, 0o600);
  await assert.rejects(
    start(app),
    new RegExp(`its user \\(\\d+\\) may not read ${file}, which \\[apps\\] grants it: chmod a\\+r`),
  );
  await app.stop();
  link.close();
});

Deno.test("a folder of an app's files goes when nothing is started from it any more", async () => {
  const { link, app } = honest(HONEST);
  await start(app);
  const place = runtimeFolders();
  assert.equal(place.length, 1);
  for (let i = 0; i < 3; i++) {
    await app.prepare();
    await app.takeOver();
  }
  await app.prepare();
  app.abandon();
  await eventually("one folder", () => Promise.resolve(runtimeFolders().length === 1 || undefined));
  await app.stop();
  assert.deepEqual(runtimeFolders(), []);
  link.close();
});

/** Folders of the app `honest` in this process's folder of the runtime. */
function runtimeFolders(): string[] {
  const own = [...Deno.readDirSync("/run")].filter(({ name }) =>
    name.startsWith(`tegula-${Deno.pid}-`)
  );
  return own.flatMap((folder) => [...Deno.readDirSync(`/run/${folder.name}`)])
    .map(({ name }) => name).filter((name) => name.startsWith("honest"));
}

Deno.test("a successor that cannot start changes nothing", async () => {
  const { link, lines, app } = honest(HONEST);
  await start(app);
  const { pid } = app;
  const broken = Deno.makeTempFileSync({ suffix: ".ts" });
  Deno.writeTextFileSync(broken, "export default () => { throw new Error('broken'); };");
  const message = `broken at file://${broken}:1:30`;
  await assert.rejects(app.prepare(link.plan(`file://${broken}`)), { message });
  assert.equal(app.pid, pid);
  assert.equal(lines.length, 3);
  await app.stop();
  link.close();
});

Deno.test("a successor that takes over is not given up for a newer one", async () => {
  const link = new EchoLink();
  const lines: string[] = [];
  const app = link.process(undefined, (line) => lines.push(line));
  await start(app);
  await app.prepare();
  // It is slow to leave, and meanwhile the next one is asked for, which cannot start.
  Deno.kill(app.pid, "SIGSTOP");
  const over = app.takeOver();
  const broken = Deno.makeTempFileSync({ suffix: ".ts" });
  Deno.writeTextFileSync(broken, "export default () => { throw new Error('broken'); };");
  const next = assert.rejects(app.prepare(), GIVEN_UP);
  app.abandon();
  assert.equal(app.known(), null, "no other program can go on with it now");
  const message = `broken at file://${broken}:1:30`;
  await assert.rejects(app.prepare(link.plan(`file://${broken}`)), { message });
  await Promise.all([next, over]);
  assert.notEqual(app.pid, 0);
  link.send(1);
  await link.settle(PATIENCE_MS / 1000);
  const late = app.prepare();
  app.abandon();
  await assert.rejects(late, GIVEN_UP);
  // Told to stop, it stops.
  await app.prepare();
  Deno.kill(app.pid, "SIGSTOP");
  const last = app.takeOver().catch(() => {});
  await Promise.all([app.stop(), last]);
  assert.equal(app.pid, 0);
  assert.ok(lines.includes("echo: killed: it hangs, and was to end"), lines.join("\n"));
  await app.stop();
  link.close();
});

/** The module of an app whose files are looked through until `release`, and then are all there. */
async function heldUp(): Promise<{ module: string; release(): Promise<void> }> {
  const folder = Deno.makeTempDirSync();
  const [module, json] = [`${folder}/own.js`, `${folder}/x.json`];
  Deno.writeTextFileSync(
    module,
    `import x from "./x.json" with { type: "json" };
    export default ({ log }) => {
      log(x.said);
      return { receive(requests, out) { while (requests.next()) out.reflect(); } };
    };`,
  );
  const text = '{ "said": "late" }';
  Deno.writeTextFileSync(`${folder}/text`, text);
  const made = await new Deno.Command("mkfifo", { args: [json] }).output();
  assert.ok(made.success);
  return {
    module: `file://${module}`,
    async release() {
      using reader = await Deno.open(json, { write: true });
      Deno.renameSync(`${folder}/text`, json);
      await reader.write(new TextEncoder().encode(text));
    },
  };
}

const GIVEN_UP = { name: "Error", message: "it is given up" };

Deno.test("a successor whose files are late is given up for a newer one", async () => {
  const { link, lines, app } = honest(HONEST);
  await start(app);
  const { module, release } = await heldUp();
  const late = assert.rejects(app.prepare(link.plan(module)), GIVEN_UP);
  await app.prepare();
  await Promise.all([late, release()]);
  await app.takeOver();
  assert.deepEqual(lines.slice(3), lines.slice(0, 3));
  assert.equal(runtimeFolders().length, 1);
  await app.stop();
  link.close();
});

for (const how of ["abandon", "stop"] as const) {
  Deno.test(`no process is started of files that are late for ${how}()`, async () => {
    const { link, lines, app } = honest(HONEST);
    await start(app);
    const { module, release } = await heldUp();
    const late = assert.rejects(app.prepare(link.plan(module)), GIVEN_UP);
    await app[how]();
    await Promise.all([late, release()]);
    await assert.rejects(app.takeOver(), { message: "honest has no successor" });
    assert.equal(lines.length, 3);
    assert.equal(runtimeFolders().length, how === "stop" ? 0 : 1);
    await app.stop();
    link.close();
  });
}

Deno.test("what an app imports from elsewhere is an error of its start, unless it is granted", async () => {
  const folder = Deno.realPathSync(Deno.makeTempDirSync());
  Deno.mkdirSync(`${folder}/own`);
  Deno.writeTextFileSync(`${folder}/text`, '{ "said": "from elsewhere" }');
  Deno.symlinkSync("../text", `${folder}/own/x.json`);
  Deno.writeTextFileSync(
    `${folder}/own/own.js`,
    `export default async ({ log }) => {
      log((await import("./x.json", { with: { type: "json" } })).default.said);
      return { receive() {} };
    };`,
  );
  const link = new EchoLink("own");
  const lines: string[] = [];
  const plan = link.plan(`file://${folder}/own/own.js`);
  const app = link.process(plan, (line) => lines.push(line));
  await assert.rejects(start(app), {
    message:
      `its module imports ${folder}/text, which is outside of its folder: [apps] grants it, ` +
      `read = ["${folder}/text"]`,
  });
  Deno.chmodSync(folder, 0o755);
  await app.prepare({ ...plan, grants: { ...NO_GRANTS, read: [`${folder}/text`] } });
  await app.takeOver();
  assert.deepEqual(lines, ["own: from elsewhere"]);
  await app.stop();
  link.close();
});

Deno.test("state outlives its process, killed or handed over, and is its predecessor's until begin()", async () => {
  const module = Deno.makeTempFileSync({ suffix: ".js" });
  Deno.writeTextFileSync(
    module,
    `export default ({ state, log }) => {
      try { state.view } catch (error) { log(error.message); }
      return {
        begin() {
          log(\`version \${state.version}, \${state.view.length} bytes, first \${state.view[0]}\`);
          state.view[0]++;
          state.setVersion(state.version + 1);
        },
        receive(requests, out) { while (requests.next()) out.reflect(); },
      };
    };`,
  );
  const link = new EchoLink("own");
  const lines: string[] = [];
  const app = link.process(
    link.plan(`file://${module}`, { stateBytes: 65_536 }),
    (line) => lines.push(line),
  );
  await start(app);
  await app.prepare();
  await app.takeOver();
  Deno.kill(app.pid, "SIGKILL");
  link.send(1);
  await link.settle(PATIENCE_MS / 1000);
  await app.stop();
  link.close();
  const early = "own: its state may still be its predecessor's: use it only from begin() on";
  const begun = (n: number) => `own: version ${n}, ${65_536 - 4096} bytes, first ${n}`;
  assert.deepEqual(lines.filter((line) => !line.includes("SIGKILL")), [
    ...[early, begun(0), early, begun(1), early, begun(2)],
  ]);
});

Deno.test("a restart answers all that waited in the link as an app's process was killed", async () => {
  const link = new EchoLink();
  const before = refusedCalls();
  for (let i = 0; i < 3; i++) {
    const app = link.process(undefined, () => {});
    await start(app);
    const { waited, lost } = await takeOver(link, app, "kill");
    assert.equal(lost, 0);
    assert.ok(waited > 0);
    await app.stop();
  }
  assert.deepEqual(refusedCalls(), before);
  link.close();
});

Deno.test("of forty handovers none loses a request or a descriptor, or has one answered twice", async () => {
  const link = new EchoLink();
  const app = link.process();
  const [before, descriptors]: [Uint32Array, number[]] = [refusedCalls(), []];
  await start(app);
  for (let i = 0; i < 40; i++) {
    link.send(1);
    await link.settle();
    const { lost, repeated } = await takeOver(link, app, "hand over");
    assert.deepEqual({ lost, repeated }, { lost: 0, repeated: 0 });
    descriptors.push([...Deno.readDirSync("/proc/self/fd")].length);
  }
  await app.stop();
  // Two of one that has ended may be open until the observer's thread has looked.
  const [first, last] = [descriptors[0], descriptors.at(-1)!];
  assert.ok(last <= first + 4, `${first} descriptors became ${last}`);
  assert.deepEqual(refusedCalls(), before);
  link.close();
});

globalThis.addEventListener("unload", closeFiles);
