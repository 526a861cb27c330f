// SPDX-License-Identifier: Apache-2.0
/** The package for Debian that `scripts/package` makes: in a Debian that has little else, under systemd. */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { bareDebian, mustRun, run } from "../bare_root.ts";
import {
  answeredAtLeast,
  ask,
  askUntilAnswered,
  CLIENT,
  HOST,
  labTest,
  pair,
  xdpProgram,
} from "../lab.ts";
import { SystemdHost } from "./systemd_host.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const CONFIG = "/etc/tegula/tegula.toml";
const SERVED = `interfaces = ["eth0"]\\nlisten = ["7=echo"]\\n`;
/** Files that dpkg and systemd write as time goes by. */
const OTHERS = /^\/(var\/(log|lib\/dpkg|cache\/ldconfig)|run\/(?!tegula)|etc\/\.pwd\.lock)/;

const folder = Deno.makeTempDirSync();
Deno.chmodSync(folder, 0o755);

/** A copy of the sources in a folder of its own. */
function copySources(path: string): string {
  Deno.mkdirSync(path, { recursive: true });
  const left = [".git", ".deno", "build", "dist", "node_modules"].map((name) =>
    `--exclude=./${name}`
  );
  const archive = `${folder}/sources.tar`;
  mustRun(["tar", "-C", ROOT, "-cf", archive, ...left, "."]);
  mustRun(["tar", "-C", path, "-xf", archive]);
  return path;
}

/** Makes the package from the sources at `path`; returns its path. */
function makePackage(path: string): string {
  const env = {
    ...Deno.env.toObject(),
    PATH: `${dirname(Deno.execPath())}:${Deno.env.get("PATH")}`,
    SOURCE_DATE_EPOCH: "1800000000",
    // xz would take most of the time.
    DPKG_DEB_COMPRESSOR_TYPE: "none",
  };
  const { code, stderr } = run([`${path}/scripts/package`], { env });
  assert.equal(code, 0, stderr);
  return `${path}/dist/${/tegula_\S+\.deb/.exec(stderr)![0]}`;
}

const sources = copySources(`${folder}/a`);
const FIRST = makePackage(sources);

Deno.test("packages that are made at different places are the same bytes", () => {
  const other = makePackage(copySources(`${folder}/a/longer/path`));
  assert.equal(run(["cmp", FIRST, other]).code, 0);
  Deno.removeSync(`${folder}/a/longer`, { recursive: true });
});

Deno.test("the package has each file that its documentation tells operators to use", () => {
  const { stdout } = run(["dpkg-deb", "--contents", FIRST]);
  const pages = [...Deno.readDirSync(`${ROOT}docs/operating`)].map(({ name }) =>
    Deno.readTextFileSync(`${ROOT}docs/operating/${name}`)
  );
  const named = new Set(pages.join().match(/packaging\/\w+\/[\w.]+\w/g));
  assert.ok(named.size >= 6);
  for (const path of named) assert.ok(stdout.includes(` ./usr/share/doc/tegula/${path}\n`), path);
});

Deno.test("lintian finds nothing in the package", () => {
  const suppressed = ["control", "data"].flatMap((which) => [
    "--suppress-tags",
    `uses-no-compression-for-${which}-tarball`,
  ]);
  const { stdout } = run(["lintian", "--allow-root", ...suppressed, FIRST]);
  assert.equal(stdout, "");
});

labTest("the package is installed, upgraded under load, removed and purged", async (lab) => {
  const debian = `${folder}/debian`;
  Deno.mkdirSync(debian);
  bareDebian(debian, ["systemd", "systemd-sysv", "iproute2"]);
  Deno.copyFileSync(FIRST, `${debian}/root/first.deb`);
  const project = Deno.readTextFileSync(`${sources}/deno.json`);
  Deno.writeTextFileSync(`${sources}/deno.json`, project.replace('"0.', '"99.'));
  Deno.copyFileSync(makePackage(sources), `${debian}/root/next.deb`);

  const { host, asker } = await pair(lab);
  await using machine = await SystemdHost.boot(host, debian);
  const files = async () =>
    (await machine.run("find / -xdev -not -path '/mnt/*'; find /var/cache /run")).split("\n")
      .filter((path) => !OTHERS.test(path)).sort();
  await machine.run("mkdir -p /etc/systemd/system");
  const before = await files();

  // A new service has no interface yet.
  assert.match(await machine.run("dpkg -i /root/first.deb"), /^tegula: name your interfaces in/m);
  assert.equal(await machine.property("UnitFileState"), "disabled");
  assert.equal(await machine.property("ActiveState"), "inactive");
  await machine.run(`printf '${SERVED}' > ${CONFIG}`);
  await machine.allowLocking();
  await machine.run("systemctl enable --now tegula");
  assert.equal((await ask(asker)).text, "hello");

  const flows = Array.from({ length: 16 }, () => ({ source: CLIENT, target: HOST, port: 7 }));
  await asker.start({ flows, rate: 1000 });
  await answeredAtLeast(asker, 100);
  const pid = await machine.property("MainPID");
  const program = () => machine.run(`readlink /proc/${pid}/exe`);
  const old = await program();
  assert.match(await machine.run("dpkg -i /root/next.deb 2>&1"), /^upgraded to 99\..*taken over$/m);
  assert.notEqual(await program(), old);
  assert.match(await machine.run("tegula version"), /^tegula 99\./);
  const { answered: sofar } = await asker.progress();
  await answeredAtLeast(asker, sofar + 100);
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  assert.equal(await machine.property("MainPID"), pid);
  assert.equal(await machine.run(`cat ${CONFIG}`), SERVED.replaceAll("\\n", "\n").trim());

  await machine.run("dpkg -r tegula");
  assert.equal(await xdpProgram(host), undefined);
  assert.equal(await machine.property("LoadState"), "not-found");
  assert.equal(await machine.run("ls -d /usr/bin/tegula /var/cache/tegula* || true"), "");
  // It knows its interfaces now, and is enabled as it was.
  await machine.run("dpkg -i /root/next.deb");
  assert.equal((await askUntilAnswered(asker)).text, "hello");

  await machine.run("systemctl disable tegula; dpkg -r tegula; dpkg -i /root/next.deb");
  assert.equal(await machine.property("ActiveState"), "inactive", "disabled, it stays so");

  await machine.run("rm -rf /etc/systemd/system/tegula.service.d; dpkg -P tegula");
  assert.deepEqual(await files(), before);
  assert.equal(await machine.run("dpkg -l tegula 2>/dev/null || true"), "");
});

globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
