// SPDX-License-Identifier: Apache-2.0
/** The systemd service that `scripts/install` makes, under a real systemd as PID 1. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { mustRun } from "../bare_root.ts";
import { ask, askUntilAnswered, eventually, labTest, pair, xdpProgram } from "../lab.ts";
import { PROJECT, SystemdHost } from "./systemd_host.ts";

const COMPILE = fileURLToPath(new URL("../../../scripts/compile.ts", import.meta.url));
const CONFIG = "/etc/tegula/tegula.toml";
const SERVED = `interfaces = ["eth0"]\\nlisten = ["7=echo", "123=ntp"]\\n`;
/** CAP_NET_BIND_SERVICE, NET_ADMIN, NET_RAW and BPF: what the unit gives. */
const CAPABILITIES = 1n << 10n | 1n << 12n | 1n << 13n | 1n << 39n;
const CAP_IPC_LOCK = 1n << 14n;

mustRun([Deno.execPath(), "run", "--allow-all", COMPILE]);

labTest("the service answers once it is started, and under its own user alone", async (lab) => {
  const { host, asker } = await pair(lab);
  await using machine = await installed(await SystemdHost.boot(host));

  // `systemctl start` returns when the service is ready, so nothing is waited for here.
  await machine.run("systemctl start tegula");
  assert.equal((await ask(asker)).text, "hello");
  assert.notEqual(await xdpProgram(host), undefined);
  const status = await machine.run(`cat /proc/${await machine.property("MainPID")}/status`);
  assert.doesNotMatch(status, /^Uid:\t0\t/m);
  const bounding = BigInt(`0x${/^CapBnd:\t(\w+)$/m.exec(status)?.[1]}`);
  assert.equal(bounding & ~CAP_IPC_LOCK, CAPABILITIES);

  // An app that leaks is bounded, and more tightly than any service. To enforce it is systemd's part.
  assert.match(await machine.property("MemoryMax"), /^\d+$/);
  const usual = await machine.run("systemctl show --property=DefaultTasksMax --value");
  assert.ok(Number(await machine.property("TasksMax")) < Number(usual), usual);

  // ntp answers when the unit lets it read the state of the kernel's clock, whichever that is.
  const request = Uint8Array.from({ length: 48 }, (_, at) => at === 0 ? 0x23 : 0);
  assert.equal((await ask(asker, { port: 123, payload: request })).bytes?.length, 48);

  const journal = "journalctl --no-pager --output=cat --unit=tegula";
  // Within the unit's bounds an app has every wall but a user that only the master could give it.
  const lacking = /^apps: .*$/m.exec(await machine.run(journal))?.[0] ?? "";
  assert.doesNotMatch(lacking, /namespace|threads/);
  await machine.run("systemctl reload tegula");
  await eventually("the reload in the journal", async () => {
    const said = await machine.run(journal);
    return /^reloaded/m.test(said) ? true : undefined;
  });
  assert.equal((await ask(asker)).text, "hello");

  // What is wrong is found before anything is done.
  await machine.run(`cp ${CONFIG} /tmp/good && echo 'provider = "dpdk"' >> ${CONFIG}`);
  await assert.rejects(machine.run("systemctl reload tegula"));
  await machine.run(`mv /tmp/good ${CONFIG}`);
  await eventually("the reason in the journal", async () => {
    const said = await machine.run(journal);
    return /^fail configuration: .*provider: must be one of/m.test(said) ? true : undefined;
  });
  assert.equal((await ask(asker)).text, "hello");

  const again = await machine.run(`${PROJECT}/scripts/install --no-build`);
  assert.match(again, /^upgraded/m);
  assert.equal((await ask(asker)).text, "hello");
  assert.equal(await machine.property("NRestarts"), "0");

  await machine.run("systemctl stop tegula");
  assert.equal(await machine.property("Result"), "success");
  assert.equal(await xdpProgram(host), undefined);
});

labTest(
  "a service that dies is started again; one whose configuration is wrong is not",
  async (lab) => {
    const { host, asker } = await pair(lab);
    await using machine = await installed(await SystemdHost.boot(host));
    await machine.run("systemctl start tegula");
    assert.equal(await machine.property("WatchdogUSec"), "10s");
    await machine.configure("watchdog", ["[Service]", "WatchdogSec=2"]);
    await host.ip("address add 203.0.113.53/32 dev lo");
    await machine.run(`printf '[announce]\\naddresses = ["203.0.113.53/32"]\\n' >> ${CONFIG}`);
    await machine.run("systemctl restart tegula");
    const first = await machine.property("MainPID");
    // Its appliance and its apps are its own to start again.
    for (
      const child of (await machine.run(`cat /proc/${first}/task/${first}/children`)).split(" ")
    ) {
      await machine.run(`kill -KILL ${child}`);
    }
    assert.equal((await askUntilAnswered(asker)).text, "hello");
    assert.equal(await machine.property("MainPID"), first);
    const journal = () => machine.run("journalctl --no-pager --output=cat --unit=tegula");
    const announced = async () => (await host.ip("route show table 5353")).trim();
    await eventually("the marker", async () => await announced() !== "" ? true : undefined);
    // One that hangs is noticed, as is one that dies. The unit withdraws what either announced.
    for (const [i, signal] of ["KILL", "STOP"].entries()) {
      const before = await machine.property("MainPID");
      await machine.run(`kill -${signal} ${before}`);
      await eventually("the restart", async () => {
        return await machine.property("NRestarts") === `${i + 1}` ? true : undefined;
      });
      await eventually("it to be ready", async () => {
        return await machine.property("ActiveState") === "active" ? true : undefined;
      });
      assert.equal((await askUntilAnswered(asker)).text, "hello");
      assert.notEqual(await machine.property("MainPID"), before);
      await eventually("the marker", async () => await announced() !== "" ? true : undefined);
      assert.equal((await journal()).match(/^withdrawn: 203\.0\.113\.53\/32 in/gm)?.length, i + 1);
    }
    assert.doesNotMatch(await journal(), /markers of an earlier run/);

    await machine.run(`sed -i '1i provider = "dpdk"' ${CONFIG}`);
    await assert.rejects(machine.run("systemctl restart tegula"));
    assert.equal(await announced(), "");
    assert.equal(await machine.property("ExecMainStatus"), "2");
    assert.equal(await machine.property("ActiveState"), "failed");
    await eventually("its last words in the journal", async () => {
      return /provider: must be one of/.test(await journal()) ? true : undefined;
    });
  },
);

labTest("uninstalling a running service stops it and leaves its configuration", async (lab) => {
  const { host } = await pair(lab);
  await using machine = await installed(await SystemdHost.boot(host));
  await machine.run("systemctl enable --now tegula");
  const left = await machine.run(`${PROJECT}/scripts/install --uninstall`);
  assert.match(left, new RegExp(`^left: ${CONFIG}$`, "m"));
  assert.equal(await xdpProgram(host), undefined);
  assert.equal(await machine.property("LoadState"), "not-found");
  assert.equal(await machine.run("ls -d /usr/local/bin/tegula /var/cache/tegula || true"), "");
});

/** Installs the service there, with a configuration. */
async function installed(machine: SystemdHost): Promise<SystemdHost> {
  await machine.run(`${PROJECT}/scripts/install --no-build`);
  await machine.run(`printf '${SERVED}' > ${CONFIG}`);
  await machine.allowLocking();
  return machine;
}
