// SPDX-License-Identifier: Apache-2.0
/** `tegula dev` as an author uses it: files are changed, rightly and wrongly, and a client sees what comes of it. */

import assert from "node:assert/strict";
import { selfCommand } from "../../../cli/command.ts";
import { exists } from "../../../ffi/host.ts";
import { eventually, labTest, type Namespace } from "../lab.ts";

const HELLO = `import type { Request } from "tegula";
import { word } from "./word.ts";
export const answer = ({ payload }: Request) => \`\${word} \${payload.length}\\n\`;
`;

/** Writes the files of an app into a folder that goes away with `act`. */
async function inFolder(
  files: Readonly<Record<string, string>>,
  act: (write: (name: string, text: string) => void, folder: string) => Promise<void>,
): Promise<void> {
  const folder = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "tegula-author-" }));
  Deno.chmodSync(folder, 0o755);
  const write = (name: string, text: string) => {
    Deno.writeTextFileSync(`${folder}/.${name}`, text);
    // As most editors save.
    Deno.renameSync(`${folder}/.${name}`, `${folder}/${name}`);
  };
  for (const [name, text] of Object.entries(files)) write(name, text);
  try {
    await act(write, folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Starts `tegula dev` in a folder, with temporary files of its own. */
async function dev(host: Namespace, folder: string, args: readonly string[]) {
  await host.ip("link set lo up");
  // As short as the path of a socket has to be, and the laboratory's own.
  const temporary = Deno.makeTempDirSync({ dir: "/run" });
  Deno.chmodSync(temporary, 0o755);
  const process = host.spawn(
    ["sh", "-c", 'cd "$0" && exec "$@"', folder, ...selfCommand(), "dev", ...args],
    { env: { TMPDIR: temporary } },
  );
  let read = 0;
  return {
    ...{ process, temporary },
    /** Waits for the next line that begins so, and returns all lines up to it that were not returned. */
    async said(prefix: string): Promise<string> {
      await process.stderr.find(prefix, { from: read, timeoutMs: 120_000 });
      const end = process.stderr.all.findIndex((line, i) => i >= read && line.startsWith(prefix));
      return process.stderr.all.slice(read, read = end + 1).join("\n");
    },
    /** Ends it, and checks that it leaves nothing behind. */
    async stop(signal: Deno.Signal): Promise<void> {
      const started = descendants(process.pid);
      process.kill(signal);
      assert.equal((await process.ended()).code, 0);
      assert.deepEqual(started.filter((pid) => exists(`/proc/${pid}`)), []);
      assert.deepEqual([...Deno.readDirSync(temporary)], []);
    },
  };
}

/** The processes that this one has started, and those that these have. */
function descendants(pid: number): number[] {
  const children = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`);
  return children.split(" ").filter((each) => each.trim() !== "").map(Number)
    .flatMap((child) => [child, ...descendants(child)]);
}

/** What a client on the same host is answered on a port. */
async function ask(host: Namespace, port = 5300): Promise<string> {
  const line = `exec 3<>/dev/udp/127.0.0.1/${port}; printf abc >&3; timeout 5 head -n1 <&3`;
  return (await host.run(["bash", "-c", `${line} || true`])).trimEnd();
}

labTest(
  "dev loads what is right after each change, and the previous version keeps running meanwhile",
  async (lab) => {
    const host = await lab.namespace("host");
    const right = (word: string) => `export const word: string = "${word}";\n`;
    await inFolder({ "hello.ts": HELLO, "word.ts": right("one") }, async (write, folder) => {
      const { said, stop, process } = await dev(host, folder, ["hello.ts"]);
      const answers = await said("tegula: hello.ts");
      assert.match(
        answers,
        /^tegula: hello\.ts answers on 127\.0\.0\.1, UDP port 5300; Ctrl-C ends it$/,
      );
      assert.equal(await ask(host), "one 3");
      const { pid } = process;
      const count = descendants(pid).length;
      assert.ok(count >= 3, `${count} processes`);

      write("word.ts", right("two"));
      assert.match(await said("tegula: "), /^tegula: reloaded hello\.ts in \d+\.\d s$/);
      assert.equal(await ask(host), "two 3");

      const wrong: readonly [string, RegExp][] = [
        [
          "\nexport const word: string = 3;\n",
          /^TS2322 .*'number' is not assignable[^]*word\.ts:2:14[^]*\ntegula: hello\.ts has errors; the previous version keeps running$/,
        ],
        [
          "\nexport const word = ;\n",
          /Expression expected[^]*word\.ts:2:21[^]*tegula: hello\.ts has errors/,
        ],
        [
          `throw new TypeError("not today");\n${right("x")}`,
          /^tegula: the app hello: .* not today at file:\S+word\.ts:1:7; .*; the previous version keeps running$/,
        ],
        [
          `import "left-pad";\n${right("x")}`,
          /^tegula: \S+word\.ts:1:8: it imports the package left-pad, .* npx esbuild .*; the previous version/,
        ],
      ];
      for (const [text, says] of wrong) {
        write("word.ts", text);
        assert.match(await said("tegula: "), says);
        assert.equal(await ask(host), "two 3");
      }
      Deno.removeSync(`${folder}/word.ts`);
      assert.match(
        await said("tegula: "),
        /^tegula: \S+hello\.ts:2:22: it imports \S+word\.ts, which is not found; .*; the previous version/,
      );
      assert.equal(await ask(host), "two 3");

      write("word.ts", right("three"));
      await said("tegula: reloaded hello.ts");
      assert.equal(await ask(host), "three 3");
      // The main module, and one that it did not import before.
      write("new.ts", right("four"));
      write("hello.ts", HELLO.replace("word.ts", "new.ts"));
      await said("tegula: reloaded hello.ts");
      assert.equal(await ask(host), "four 3");
      write("new.ts", right("five"));
      await said("tegula: reloaded hello.ts");
      assert.equal(await ask(host), "five 3");

      assert.equal(process.pid, pid);
      await eventually(
        "the end of replaced processes",
        () => Promise.resolve(descendants(pid).length === count || undefined),
      );
      await stop("SIGINT");
    });
  },
);

labTest("dev waits for an app that cannot be started, and ends with its terminal", async (lab) => {
  const host = await lab.namespace("host");
  await inFolder({ "app.js": "throw new Error('not yet');" }, async (write, folder) => {
    const { said, stop } = await dev(host, folder, ["app.js", "--port", "6000-6001"]);
    const failed = await said("tegula: app.js");
    assert.match(
      failed,
      /^tegula: the app app: its module cannot be loaded: not yet at \S+app\.js:1:7; .*\n/,
    );
    assert.match(failed, /\ntegula: app\.js was not started; waiting for a change$/);
    write("app.js", "export const answer = () => 'now\\n'; console.log('said');");
    assert.match(
      await said("tegula: "),
      /^app: said\ntegula: app\.js answers on .*, UDP ports 6000-6001;/,
    );
    assert.equal(await ask(host, 6001), "now");
    await stop("SIGHUP");
  });
});

labTest("dev runs an app whose file is called as a tile is", async (lab) => {
  const host = await lab.namespace("host");
  const answers = `export const answer = () => "it runs\\n";`;
  await inFolder({ "status.js": answers }, async (_, folder) => {
    const { said, stop } = await dev(host, folder, ["status.js"]);
    assert.match(await said("tegula: "), /^tegula: status\.js answers on /);
    assert.equal(await ask(host), "it runs");
    await stop("SIGINT");
  });
});

labTest("dev takes options, grants, instances and ports from a configuration file", async (lab) => {
  const host = await lab.namespace("host");
  const config = (greeting: string) =>
    `interfaces = ["eth9"]\nlisten = ["53=dns", "5301=mine*2"]\n[apps.mine]\nmodule = "./app.js"\n` +
    `read = ["data"]\noptions = { greeting = "${greeting}", file = "./data" }\n`;
  const app = `export default ({ options }) => {
    const data = Deno.readTextFileSync(options.file);
    return { answer: () => options.greeting + data + '\\n' };
  };`;
  const files = { "app.js": app, "data": "!", "tegula.toml": config("hello") };
  await inFolder(files, async (write, folder) => {
    const { said, process } = await dev(host, folder, ["app.js", "--config", "tegula.toml"]);
    await said("tegula: app.js answers on 127.0.0.1, UDP port 5301;");
    assert.equal(await ask(host, 5301), "hello!");
    write("tegula.toml", config("good evening"));
    await said("tegula: reloaded app.js");
    assert.equal(await ask(host, 5301), "good evening!");
    write("tegula.toml", config("x").replace("read", "reed"));
    assert.match(await said("tegula: "), /^tegula: tegula\.toml:5: apps\.mine\.reed: unknown key/);
    assert.equal(await ask(host, 5301), "good evening!");
    // However it ends, the run ends with it.
    const started = descendants(process.pid);
    process.kill("SIGKILL");
    await process.ended();
    await eventually("the end of its processes", () => {
      return Promise.resolve(started.every((pid) => !exists(`/proc/${pid}`)) || undefined);
    });
  });
});

/** Wrong command lines, and what is said of them. */
const USAGE: readonly [args: readonly string[], says: RegExp][] = [
  [[], /dev takes the app's module, for example \.\/hello\.ts/],
  [["gone.ts"], /cannot read the app module gone\.ts: not found; check the path/],
  [["app.js", "--port", "0"], /--port takes a port or FIRST-LAST, from 1 to 65535, not '0'/],
  [
    ["app.js", "--config", "tegula.toml"],
    /tegula\.toml: no app that listens has the module .*app\.js/,
  ],
  [["."], /cannot read the app module \.: it is not a file/],
  [["/dev/zero"], /cannot read the app module \/dev\/zero: it is not a file/],
  [["app.js", "--config", "gone.toml"], /cannot read the configuration file .*gone\.toml/],
];

labTest("dev says what is wrong with its command line, status 2", async (lab) => {
  const host = await lab.namespace("host");
  const files = { "app.js": "", "tegula.toml": 'listen = ["7=echo"]' };
  await inFolder(files, async (_, folder) => {
    for (const [args, says] of USAGE) {
      const { process, temporary } = await dev(host, folder, args);
      assert.equal((await process.ended()).code, 2);
      assert.match(process.stderr.all.join("\n"), says);
      assert.deepEqual([...Deno.readDirSync(temporary)], []);
    }
  });
});
