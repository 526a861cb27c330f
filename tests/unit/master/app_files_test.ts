// SPDX-License-Identifier: Apache-2.0
/**
 * Which files an app is made from: what is in its module's folder or granted to it, and nothing that a
 * link, an import or a file without an end brings in from elsewhere.
 */

import { strict as assert } from "node:assert";
import { openHost } from "../../../ffi/host.ts";
import { ROOT } from "../../../ffi/library.ts";
import { bundleCommand, openAppFiles, type StagedApp } from "../../../master/app_files.ts";

/** A user who can read nothing of these tests. */
const UID = 64_321;
const HOST = openHost();
/** Files of an app, by name. */
type Files = Readonly<Record<string, string>>;

const APP = "export default () => ({ receive() {} });\n";

/** Places `app/app.ts` of such files, none of which its user can read; `act` is given the folder. */
async function staged(
  files: Files,
  act: (
    folder: string,
    stage: (read?: readonly string[]) => Promise<StagedApp>,
  ) => void | Promise<void>,
  millis?: number,
): Promise<void> {
  const folder = Deno.realPathSync(Deno.makeTempDirSync());
  for (const [name, text] of Object.entries(files)) {
    Deno.mkdirSync(`${folder}/${name}`.replace(/\/[^/]*$/, ""), { recursive: true });
    Deno.writeTextFileSync(`${folder}/${name}`, text);
  }
  const made = Deno.makeTempDirSync();
  const processes = { readableBy: (path: string) => !path.startsWith(folder) };
  const all = openAppFiles({ host: HOST, processes, uid: UID, folder: made, millis });
  const apps: StagedApp[] = [];
  try {
    await act(folder, async (read = []) => {
      const app = await all.stage({
        ...{ name: "own", uid: UID, grants: { read } },
        service: { module: `file://${folder}/app/app.ts` },
      });
      apps.push(app);
      return app;
    });
    for (const app of apps) all.discard(app);
    assert.deepEqual([...Deno.readDirSync(made)], []);
  } finally {
    all.close();
    Deno.removeSync(folder, { recursive: true });
  }
}

const outside = (file: string) =>
  `its module imports ${file}, which is outside of its folder: [apps] grants it, read = ["${file}"]`;

/** Imports that no start can follow, and what is said of them, in the folder of the app. */
const WRONG: readonly (readonly [line: string, says: (folder: string) => string])[] = [
  ...["left-pad", "@scope/name/part", "#own", "@/alias.ts"].map((name) =>
    [`import x from "${name}";`, (folder: string) => packageSays(name, folder)] as const
  ),
  ['export * from "left-pad";', (folder) => packageSays("left-pad", folder)],
  [
    'import x from "npm:left-pad@1.3.0/index.js";',
    (folder) =>
      packageSays("npm:left-pad@1.3.0/index.js", folder, 'import it as "left-pad/index.js", '),
  ],
  [
    'import x from "jsr:@std/path@1";',
    (folder) => packageSays("jsr:@std/path@1", folder, 'import it as "@std/path", '),
  ],
  [
    'import x from "https://example.com/x.ts";',
    () =>
      "it imports https://example.com/x.ts, but nothing is downloaded at run time; save it beside " +
      "the module and import the file",
  ],
  ['import x from "node:nosuch";', () => "it imports node:nosuch, which is not a built-in module"],
  [
    'import x from "./missing.ts";',
    (folder) => `it imports ${folder}/missing.ts, which is not found; check the path`,
  ],
  [
    'import x from "./missing.json" with { type: "json" };',
    (folder) => `it imports ${folder}/missing.json, which is not found; check the path`,
  ],
  [
    'import "./parts/one";',
    (folder) => `it imports ${folder}/parts/one, which is not found; with its suffix it is one.ts`,
  ],
  [
    'import "./parts";',
    (folder) => `it imports ${folder}/parts, which is a folder; name a file in it`,
  ],
];

function packageSays(name: string, folder: string, written = ""): string {
  return `it imports the package ${name}, but an app can import only files and built-in modules; ` +
    `${written}bundle it and its packages into one file, and serve that: ${
      bundleCommand(`${folder}/app.ts`)
    }`;
}

for (const [line, says] of WRONG) {
  Deno.test(`an import that no start can follow is named with its place: ${line}`, async () => {
    const column = line.indexOf('"') + 1;
    const files = { "app/parts/one.ts": "export {};" };
    await staged({ ...files, "app/app.ts": `\n${line}\n${APP}` }, async (folder, stage) => {
      const place = `${folder}/app/app.ts:2:${column}`;
      await assert.rejects(stage(), { message: `${place}: ${says(`${folder}/app`)}` });
    });
    // Of a file that it imports.
    await staged({
      ...{ ...files, "app/app.ts": `import "./other.ts";\n${APP}` },
      "app/other.ts": `\n${line}`,
    }, async (folder, stage) => {
      const place = `${folder}/app/other.ts:2:${column}`;
      await assert.rejects(stage(), { message: `${place}: ${says(`${folder}/app`)}` });
    });
  });
}

Deno.test("an import() that no start can follow is left to the app, which may expect it", async () => {
  const names = ["left-pad", "npm:left-pad", "https://example.com/x.ts", "./missing.ts"];
  const lines = names.map((name) => `await import("${name}").catch(() => {});\n`).join("");
  await staged({ "app/app.ts": lines + APP }, async (folder, stage) => {
    const { read, absent, sources } = await stage();
    assert.equal(read.length, 1);
    // It may find out that it is missing, and a reload notices that it is there.
    assert.equal(absent!.length, 1);
    assert.ok(absent![0].endsWith(`${folder}/app/missing.ts`));
    assert.deepEqual(sources, [`${folder}/app/app.ts`, `${folder}/app/missing.ts`]);
  });
});

Deno.test("an app imports what Node and Deno have built in, and the library by its name", async () => {
  await staged({
    "app/app.ts": `import "node:fs";\nimport "fs";\nimport "node:fs/promises";
      import { TokenBuckets } from "tegula/token_buckets.ts";
      import type { App } from "tegula";
      import "data:text/javascript,1";\nnew TokenBuckets({ perSecond: 1, burst: 1 });\n${APP}`,
  }, async (folder, stage) => {
    assert.deepEqual((await stage()).sources, [`${folder}/app/app.ts`]);
  });
});

Deno.test("an app imports from its folder and those inside it", async () => {
  await staged({
    "app/app.ts":
      `import "./parts/one.ts";\nimport x from "./parts/x.json" with { type: "json" };\n${APP}`,
    "app/parts/one.ts": `import "../two.ts";`,
    "app/two.ts": "export {};",
    "app/parts/x.json": "{}",
  }, async (folder, stage) => {
    Deno.symlinkSync("app.ts", `${folder}/app/link.ts`);
    const { read, sources } = await stage();
    const names = ["app.ts", "parts/one.ts", "parts/x.json", "two.ts"];
    assert.deepEqual([...sources].sort(), names.map((name) => `${folder}/app/${name}`));
    for (const [i, path] of read.entries()) {
      assert.equal(Deno.readTextFileSync(path), Deno.readTextFileSync(sources[i]));
    }
  });
});

for (const how of ["import", 'await import("./x.json", { with: { type: "json" } });']) {
  const line = how === "import" ? `import x from "./x.json" with { type: "json" };` : how;
  Deno.test(`a link to a file elsewhere is not the app's: ${line}`, async () => {
    await staged({ "app/app.ts": `${line}\n${APP}`, "secret": "{}" }, async (folder, stage) => {
      Deno.symlinkSync("../secret", `${folder}/app/x.json`);
      await assert.rejects(stage(), { name: "Error", message: outside(`${folder}/secret`) });
      const { read } = await stage([`${folder}/secret`]);
      assert.equal(read.length, 2);
    });
  });
}

Deno.test("a folder that is a link leads elsewhere, too", async () => {
  await staged({
    "app/app.ts": `import "./parts/one.js";\n${APP}`,
    "else/one.js": "export {};",
  }, async (folder, stage) => {
    Deno.symlinkSync("../else", `${folder}/app/parts`);
    await assert.rejects(stage(), { message: outside(`${folder}/else/one.js`) });
    await stage([`${folder}/else`]);
  });
});

Deno.test("an import from beside an app's folder has to be granted", async () => {
  await staged({
    "app/app.ts": `import "../app-parts/one.ts";\n${APP}`,
    "app-parts/one.ts": "export {};",
  }, async (folder, stage) => {
    const file = `${folder}/app-parts/one.ts`;
    await assert.rejects(stage(), { message: outside(file) });
    await assert.rejects(stage([`${folder}/app-part`]), { message: outside(file) });
    await stage([`${folder}/app-parts`]);
  });
});

Deno.test("the program's own modules are an app's without a grant", async () => {
  const folder = Deno.realPathSync(Deno.makeTempDirSync());
  const files = openAppFiles({
    host: HOST,
    processes: { readableBy: () => true },
    uid: UID,
    folder,
  });
  const own = `${ROOT}apps/echo.ts`;
  Deno.writeTextFileSync(`${folder}/app.ts`, `export * from "${own}";`);
  const service = { module: `file://${folder}/app.ts` };
  assert.ok((await files.stage({ name: "own", uid: UID, service })).read.includes(own));
  files.close();
});

Deno.test("an app may have any name", async () => {
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${folder}/app.ts`, "export const answer = () => 'it';");
  const files = openAppFiles({ host: HOST, processes: { readableBy: () => true }, uid: UID });
  try {
    for (const name of ['a"b\n*?', "..", "x".repeat(400), `/${"ü".repeat(200)}/app.ts`]) {
      const service = { module: `file://${folder}/app.ts` };
      const app = await files.stage({ name, uid: UID, service });
      assert.match(app.folder!, /\.files\/[\w.-]+$/);
      files.discard(app);
    }
  } finally {
    files.close();
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("an app inside net tiles has its grants with its module", async () => {
  const folder = Deno.realPathSync(Deno.makeTempDirSync());
  const files = openAppFiles({
    host: HOST,
    processes: { readableBy: () => true },
    uid: UID,
    folder,
  });
  const file = Deno.realPathSync(Deno.makeTempFileSync({ suffix: ".js" }));
  Deno.writeTextFileSync(`${folder}/app.ts`, `import "${file}";`);
  const service = { module: `file://${folder}/app.ts` };
  const plan = { name: "own", uid: UID };
  await assert.rejects(files.stage({ ...plan, service }), { message: outside(file) });
  await files.stage({ ...plan, service: { ...service, grants: { read: [file] } } });
  files.close();
  Deno.removeSync(file);
});

Deno.test("types alone are no part of an app, wherever they are", async () => {
  await staged({
    "app/app.ts": `import type { T } from "../types/one.ts";\nexport const t: T = 1;\n${APP}`,
    "types/one.ts": "export type T = number;",
  }, async (folder, stage) => {
    assert.deepEqual((await stage()).sources, [`${folder}/app/app.ts`]);
  });
});

Deno.test({
  name: "a file of another owner is not copied for an app, unless it is granted",
  ignore: Deno.uid() !== 0,
  async fn() {
    await staged({
      "app/app.ts": `import x from "./x.json" with { type: "json" };\n${APP}`,
      "app/x.json": "{}",
    }, async (folder, stage) => {
      Deno.chownSync(`${folder}/app/app.ts`, 64_322, 64_322);
      const message =
        `its module cannot be read: ${folder}/app/x.json has another owner than the module`;
      await assert.rejects(stage(), { message });
      await stage([`${folder}/app/x.json`]);
      // Nor by a link in the module's own place.
      Deno.removeSync(`${folder}/app/app.ts`);
      Deno.writeTextFileSync(`${folder}/other.ts`, APP);
      Deno.symlinkSync("../other.ts", `${folder}/app/app.ts`);
      await stage();
      const link = new Deno.Command("chown", { args: ["-h", "64322", `${folder}/app/app.ts`] });
      assert.ok((await link.output()).success);
      await assert.rejects(stage(), /app\.ts has another owner than the module/);
    });
  },
});

Deno.test("an import that never ends is given up, and leaves no process", async () => {
  await staged({
    "app/app.ts": `import x from "./x.json" with { type: "json" };\n${APP}`,
  }, async (folder, stage) => {
    assert.ok(
      (await new Deno.Command("mkfifo", { args: [`${folder}/app/x.json`] }).output()).success,
    );
    await assert.rejects(stage(), {
      message: "what its module imports was not read within 1.5 s",
    });
    assert.deepEqual(processesWith(`${folder}/app/app.ts`), []);
  }, 1500);
});

/** Runs `act` with a folder for the files of masters, which lie there as if systemd had made it. */
function withPlace(act: (place: string) => void): void {
  const place = Deno.realPathSync(Deno.makeTempDirSync());
  Deno.env.set("RUNTIME_DIRECTORY", place);
  try {
    act(place);
  } finally {
    Deno.env.delete("RUNTIME_DIRECTORY");
    Deno.removeSync(place, { recursive: true });
  }
}

const startFiles = () =>
  openAppFiles({ host: HOST, processes: { readableBy: () => true }, uid: UID });

/** Makes such a folder, or what looks like one, as a killed master leaves it. */
function leave(path: string, mode = 0o755): string {
  Deno.mkdirSync(`${path}/own-1/cache`, { recursive: true });
  Deno.writeTextFileSync(`${path}/own-1/cache/file`, "");
  Deno.chmodSync(path, mode);
  return path;
}

Deno.test("a master removes the folders of those that were killed, and of none that runs", () => {
  withPlace((place) => {
    const running = startFiles();
    const { folder } = running;
    assert.ok(folder.startsWith(`${place}/tegula-${Deno.pid}-`), folder);
    leave(`${place}/tegula-1-abcd.files`);
    leave(`${place}/tegula-${Deno.pid}-0123.files`);
    const next = startFiles();
    assert.deepEqual([...Deno.readDirSync(place)].map(({ name }) => `${place}/${name}`), [folder]);
    next.close();
    running.close();
    assert.deepEqual([...Deno.readDirSync(place)], []);
  });
});

Deno.test("a master that goes on with the folder of one without a lock locks it", () => {
  withPlace((place) => {
    const folder = leave(`${place}/tegula-${Deno.pid}-0123.files`);
    const files = openAppFiles({
      ...{ host: HOST, processes: { readableBy: () => true }, uid: UID, folder },
    });
    startFiles().close();
    assert.ok(Deno.statSync(`${folder}/own-1/cache/file`).isFile);
    files.close();
  });
});

Deno.test("a master removes nothing that may be another's", () => {
  withPlace((place) => {
    const others = Deno.makeTempDirSync();
    leave(`${others}/kept`);
    const names = ["tegula-1-abcd", "tegula-1-abcd.files~", "tegula-x-abcd.files", "tegula-test-1"];
    for (const name of names) leave(`${place}/${name}`);
    leave(`${place}/tegula-1-aaaa.files`, 0o775);
    leave(`${place}/tegula-1-bbbb.files`, 0o757);
    Deno.symlinkSync(`${others}/kept`, `${place}/tegula-1-cccc.files`);
    Deno.writeTextFileSync(`${place}/tegula-1-dddd.files`, "");
    if (Deno.uid() === 0) Deno.chownSync(leave(`${place}/tegula-1-eeee.files`), UID, UID);
    // Of one that is removed, what a link in it leads to is not.
    Deno.symlinkSync(`${others}/kept`, `${leave(`${place}/tegula-1-ffff.files`)}/link`);
    const before = [...Deno.readDirSync(place)].map(({ name }) => name);
    startFiles().close();
    const now = [...Deno.readDirSync(place)].map(({ name }) => name);
    assert.deepEqual(now.sort(), before.filter((name) => !name.includes("ffff")).sort());
    assert.ok(Deno.statSync(`${others}/kept/own-1/cache/file`).isFile);
    // Where others may put something else into its place in between, it is left.
    leave(`${place}/tegula-1-ffff.files`);
    Deno.chmodSync(place, 0o777);
    startFiles().close();
    assert.ok(Deno.statSync(`${place}/tegula-1-ffff.files/own-1/cache/file`).isFile);
    Deno.chmodSync(place, 0o1777);
    startFiles().close();
    assert.throws(() => Deno.statSync(`${place}/tegula-1-ffff.files`), Deno.errors.NotFound);
    Deno.removeSync(others, { recursive: true });
  });
});

Deno.test("an app's stamp tells a file from another of the same size and time", async () => {
  await staged({ "app/app.ts": APP }, async (folder, stage) => {
    const { stamp } = await stage();
    assert.equal((await stage()).stamp, stamp);
    const { atime, mtime } = Deno.statSync(`${folder}/app/app.ts`);
    Deno.writeTextFileSync(`${folder}/new.ts`, APP.replace("receive", "RECEIVE"));
    Deno.utimeSync(`${folder}/new.ts`, atime!, mtime!);
    Deno.renameSync(`${folder}/new.ts`, `${folder}/app/app.ts`);
    assert.notEqual((await stage()).stamp, stamp);
  });
});

/** Numbers of the processes that have this word on their command line. */
function processesWith(word: string): string[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => name).filter((name) => {
    try {
      return /^\d+$/.test(name) && Deno.readTextFileSync(`/proc/${name}/cmdline`).includes(word);
    } catch {
      return false;
    }
  });
}
