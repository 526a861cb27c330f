// SPDX-License-Identifier: Apache-2.0
/** `dist/tegula`, the one-file executable, and what `scripts/install` makes of it. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { BareRoot, mustRun, run } from "../bare_root.ts";
import { ask, labTest, pair, refusal } from "../lab.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const EXECUTABLE = `${ROOT}dist/tegula`;
const CACHE = "/var/cache/tegula-root";
/** What the launcher and the demo run, all of it in Debian's base but for iproute2. */
const TOOLS =
  "sh stat id mkdir flock env sed tail sha256sum tar sync mv rm head ip mount unshare setpriv"
    .split(" ");
const NOBODY = 65534;
/** Of whom no other test has processes. */
const LONER = 65432;

mustRun([Deno.execPath(), "run", "--allow-all", `${ROOT}scripts/compile.ts`]);

/** A root with the executable at /tegula, those tools, and of Deno what it needs of libc. */
function bareRoot(): BareRoot {
  const root = new BareRoot(TOOLS);
  root.copySharedObjects(Deno.execPath());
  root.copy(EXECUTABLE, "/tegula");
  return root;
}

/** Names in the root's cache folder. */
function versions(root: BareRoot): string[] {
  return [...Deno.readDirSync(root.path + CACHE)].map(({ name }) => name).sort();
}

Deno.test("dist/tegula runs with no Deno, no node_modules and no environment", () => {
  using root = bareRoot();
  const { code, stdout, stderr } = root.run(["/tegula", "--version"]);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  assert.match(stdout, /^tegula \d/);
});

Deno.test("dist/tegula finds its npm modules: a wrong configuration is explained", () => {
  using root = bareRoot();
  Deno.writeTextFileSync(`${root.path}/etc/tegula.toml`, `provider = "dpdk"`);
  const { code, stderr } = root.run(["/tegula", "run", "--config", "/etc/tegula.toml"]);
  assert.match(stderr, /provider: must be one of auto, xdp, socket/);
  assert.equal(code, 2);
});

Deno.test("dist/tegula unpacks once, where only its user can write", () => {
  using root = bareRoot();
  root.run(["/tegula", "--version"]);
  const [version, ...others] = versions(root);
  assert.deepEqual(others, []);
  const made = Deno.statSync(`${root.path}${CACHE}/${version}/deno`);
  assert.equal(Deno.statSync(`${root.path}${CACHE}/${version}`).mode! & 0o777, 0o700);
  root.run(["/tegula", "--version"]);
  assert.deepEqual(versions(root), [version]);
  assert.equal(Deno.statSync(`${root.path}${CACHE}/${version}/deno`).ino, made.ino);
});

Deno.test("dist/tegula refuses a cache folder that others can write", () => {
  const folder = Deno.makeTempDirSync();
  Deno.chmodSync(folder, 0o777);
  const { code, stderr } = run([EXECUTABLE, "--version"], { env: { TEGULA_CACHE: folder } });
  assert.match(stderr, new RegExp(`cannot unpack into ${folder}: .*writable by you alone`));
  assert.equal(code, 7);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("dist/tegula says of a cache folder that it is read-only", () => {
  const folder = Deno.makeTempDirSync();
  assert.equal(run(["mount", "-t", "tmpfs", "-o", "ro,mode=700", "none", folder]).code, 0);
  const { code, stderr } = run([EXECUTABLE, "--version"], { env: { TEGULA_CACHE: folder } });
  assert.match(stderr, new RegExp(`^tegula: cannot unpack into ${folder}: it is read-only`));
  assert.equal(code, 7);
  assert.equal(run(["umount", folder]).code, 0);
  Deno.removeSync(folder);
});

Deno.test("an unpacking that fails, or is ended, leaves nothing behind", () => {
  const [folder, tools] = [Deno.makeTempDirSync(), Deno.makeTempDirSync()];
  const env = { TEGULA_CACHE: folder };
  assert.equal(run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "none", folder]).code, 0);
  const { code, stderr } = run([EXECUTABLE, "--version"], { env });
  assert.match(stderr, /^tegula: cannot unpack .*; is there room\?\n$/);
  assert.equal(code, 7);
  assert.deepEqual([...Deno.readDirSync(folder)], []);
  assert.equal(run(["umount", folder]).code, 0);
  // What unpacks is ended when all but its name is there.
  Deno.writeTextFileSync(`${tools}/sync`, "#!/bin/sh\nkill -TERM $PPID\n", { mode: 0o755 });
  const PATH = `${tools}:${Deno.env.get("PATH")}`;
  assert.equal(run([EXECUTABLE, "--version"], { env: { ...env, PATH } }).code, 143);
  assert.deepEqual([...Deno.readDirSync(folder)], []);
  for (const path of [folder, tools]) Deno.removeSync(path, { recursive: true });
});

Deno.test("scripts/install says how it is used, and that there is no folder to install below", () => {
  const help = run([`${ROOT}scripts/install`, "--help"]);
  assert.match(help.stdout, /^usage: scripts\/install/);
  assert.equal(help.code, 0);
  const { code, stderr } = run([`${ROOT}scripts/install`, "--root", "/nonexistent"]);
  assert.equal(stderr, "there is no folder /nonexistent (--root)\n");
  assert.equal(code, 2);
});

Deno.test("dist/tegula uses the folder of an ordinary user, and wants one", () => {
  using root = bareRoot();
  const home = "/root/home";
  Deno.mkdirSync(root.path + home);
  Deno.chownSync(root.path + home, NOBODY, NOBODY);
  const folders: { env: Record<string, string>; folder: string }[] = [
    { env: { HOME: home }, folder: `${home}/.cache/tegula` },
    { env: { HOME: home, XDG_CACHE_HOME: `${home}/xdg` }, folder: `${home}/xdg/tegula` },
  ];
  for (const { env, folder } of folders) {
    const { code, stderr } = root.run(["/tegula", "--version"], { env, uid: NOBODY });
    assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
    assert.equal([...Deno.readDirSync(root.path + folder)].length, 1, folder);
  }
  const { code, stderr } = root.run(["/tegula", "--version"], { uid: NOBODY });
  assert.deepEqual({ code, stderr }, {
    code: 7,
    stderr: "tegula: cannot unpack into /.cache/tegula; name a folder of yours by TEGULA_CACHE\n",
  });
});

Deno.test("limits that deno cannot start with are named", () => {
  using root = bareRoot();
  for (const [limit, says] of [["nofile", "16 open files"], ["nproc", "3 processes"]]) {
    const few = says.split(" ")[0];
    const { code, stderr } = root.run(["/tegula", "--version"], {
      uid: LONER,
      prefix: ["/usr/bin/prlimit", `--${limit}=${few}:${few}`],
    });
    assert.equal(code, 7, stderr);
    assert.match(stderr, new RegExp(`^tegula: only ${says} are allowed, .*raise it with 'ulimit`));
  }
});

Deno.test("what others put above the folder in /tmp is not read", () => {
  using root = bareRoot();
  const folder = "mine";
  const env = { TEGULA_CACHE: `/tmp/${folder}` };
  root.run(["/tegula", "--version"], { env, uid: NOBODY });
  const [version] = [...Deno.readDirSync(`${root.path}/tmp/${folder}`)].map(({ name }) => name);
  const imports = { [`./${folder}/${version}/cli/main.ts`]: "./theirs.ts" };
  const theirs = JSON.stringify({ workspace: [`./${folder}/*`], imports });
  Deno.writeTextFileSync(`${root.path}/tmp/deno.json`, theirs);
  Deno.writeTextFileSync(`${root.path}/tmp/theirs.ts`, `export const main = () => 42;`);
  const { code, stdout, stderr } = root.run(["/tegula", "--version"], { env, uid: NOBODY });
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  assert.match(stdout, /^tegula \d/);
});

Deno.test("what the environment tells Deno does not reach it", () => {
  using root = bareRoot();
  const env = { DENO_V8_FLAGS: "--no-such-flag", DENO_LOG: "debug", NODE_OPTIONS: "--no-such" };
  const { code, stderr } = root.run(["/tegula", "--version"], { env });
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
});

Deno.test("a folder that lacks something is named, so that it can be removed", () => {
  using root = bareRoot();
  root.run(["/tegula", "--version"]);
  const [version] = versions(root);
  Deno.removeSync(`${root.path}${CACHE}/${version}/main.ts`);
  const { code, stderr } = root.run(["/tegula", "--version"]);
  assert.match(stderr, new RegExp(`remove ${CACHE}/${version}, or`));
  assert.equal(code, 7);
});

Deno.test("a new version takes away an old one, unless it is in use", async () => {
  using root = bareRoot();
  const [idle, used] = ["a".repeat(64), "b".repeat(64)].map((name) =>
    `${root.path}${CACHE}/${name}`
  );
  const other = `${root.path}${CACHE}/notes`;
  for (const folder of [idle, used, other]) Deno.mkdirSync(folder, { recursive: true });
  Deno.chmodSync(root.path + CACHE, 0o700);
  const holder = new Deno.Command("flock", {
    args: ["--shared", used, "sh", "-c", "echo held; read -r line"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  await holder.stdout.getReader().read();
  root.run(["/tegula", "--version"]);
  await holder.stdin.close();
  await holder.status;
  const left = versions(root);
  assert.deepEqual([left.length, left.includes("b".repeat(64)), left.includes("notes")], [
    3,
    true,
    true,
  ]);
});

Deno.test("two first starts at once both work and leave one folder", async () => {
  using root = bareRoot();
  const starts = [1, 2, 3].map(() =>
    new Deno.Command("/usr/sbin/chroot", {
      args: [root.path, "/tegula", "--version"],
      clearEnv: true,
    })
      .output()
  );
  for (const { code } of await Promise.all(starts)) assert.equal(code, 0);
  assert.equal(versions(root).length, 1);
});

Deno.test("dist/tegula whose end is cut off says so", () => {
  using root = bareRoot();
  Deno.truncateSync(`${root.path}/tegula`, Deno.statSync(EXECUTABLE).size - 1);
  const { code, stderr } = root.run(["/tegula", "--version"]);
  assert.match(stderr, /^tegula: \/tegula is damaged, .*: start it again, or install it anew\n$/);
  assert.equal(code, 7);
});

Deno.test("dist/tegula plays the demo from another folder", () => {
  using root = bareRoot();
  const { code, stdout, stderr } = root.run(["/tegula", "demo", "--json", "--seconds", "10"]);
  assert.equal(code, 0, stderr);
  const result = JSON.parse(stdout);
  assert.equal(result.ok, true);
  assert.match(result.mode, /^xdp /);
});

Deno.test("scripts/install puts everything in place, and takes it away again", () => {
  const target = Deno.makeTempDirSync();
  const install = (...args: string[]) =>
    mustRun([`${ROOT}scripts/install`, "--root", target, "--no-build", ...args]);
  install();
  const unit = `${target}/etc/systemd/system/tegula.service`;
  const config = `${target}/etc/tegula/tegula.toml`;
  const program = `${target}/usr/local/bin/tegula`;
  assert.equal(Deno.statSync(program).mode! & 0o777, 0o755);
  // The shell, and systemd's own units, so that what ours names is found.
  Deno.mkdirSync(`${target}/bin`);
  Deno.copyFileSync("/bin/sh", `${target}/bin/sh`);
  Deno.mkdirSync(`${target}/usr/lib/systemd`, { recursive: true });
  mustRun(["mount", "--bind", "/usr/lib/systemd", `${target}/usr/lib/systemd`]);
  const verified = run(["systemd-analyze", "verify", `--root=${target}`, "tegula.service"]);
  mustRun(["umount", `${target}/usr/lib/systemd`]);
  assert.deepEqual(verified, { code: 0, stdout: "", stderr: "" });

  install("--uninstall");
  for (const path of [program, unit, config]) assert.throws(() => Deno.statSync(path));

  install();
  Deno.writeTextFileSync(config, `interfaces = ["eth0"]\n`);
  install();
  assert.equal(
    Deno.readTextFileSync(config),
    `interfaces = ["eth0"]\n`,
    "kept when installed anew",
  );
  assert.match(install("--uninstall"), new RegExp(`left: ${config}`));
  assert.ok(Deno.statSync(config).isFile);
  Deno.removeSync(target, { recursive: true });
});

labTest("the unit's capabilities are enough for an ordinary user", async (lab) => {
  const { host, asker } = await pair(lab);
  const unit = Deno.readTextFileSync(`${ROOT}packaging/tegula.service`);
  const granted = /^AmbientCapabilities=(.*)$/m.exec(unit)![1].toLowerCase().split(" ");
  // IPC_LOCK stands for the unit's LimitMEMLOCK, which root in a container may not raise.
  const plus = [...granted, "cap_ipc_lock"].map((name) => `,+${name.slice(4)}`).join("");
  const cache = Deno.makeTempDirSync();
  Deno.chownSync(cache, NOBODY, NOBODY);
  Deno.copyFileSync(EXECUTABLE, `${cache}/tegula`);
  const command = [
    ...["setpriv", "--no-new-privs", "--clear-groups"],
    ...[`--reuid=${NOBODY}`, `--regid=${NOBODY}`],
    ...[`--inh-caps=-all${plus}`, `--ambient-caps=-all${plus}`, `--bounding-set=-all${plus}`],
    ...[`${cache}/tegula`, "run", "--interface", "eth0", "--listen", "7=echo"],
    ...["--provider", "xdp"],
  ];
  const env = { CACHE_DIRECTORY: cache };
  const joining = await refusal(host.spawn([...command, "--dispatcher"], { env }));
  assert.equal(joining.code, 3, "only who asks for a dispatcher needs, and keeps, more");
  assert.match(joining.said, /missing CAP_SYS_ADMIN: .*leave --dispatcher out/);

  const service = host.spawn(command, { env });
  await service.stderr.find("ready:");
  assert.equal((await ask(asker)).text, "hello");
  service.kill("SIGTERM");
  assert.equal((await service.ended()).code, 0);
  Deno.removeSync(cache, { recursive: true });
});
