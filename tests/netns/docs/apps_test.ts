// SPDX-License-Identifier: Apache-2.0
/**
 * What docs/apps.md says to type: the app that is written there, run by the source tree from the
 * folder that it is in, and asked as it is said there.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { APPS } from "../../../apps/registry.ts";
import { slowSideFolder, typedIn, writtenFolder } from "../../ten_minutes.ts";
import { temporaryFile } from "../config_file.ts";
import { Appliance, ask, CLIENT, eventually, HOST, labTest, pair } from "../lab.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const ZONE = fileURLToPath(new URL("../../fixtures/app/example.zone", import.meta.url));

labTest("docs/apps.md, steps 3 and 4: the app is run, and answers", async (lab) => {
  const host = await lab.namespace("host");
  const running = host.spawn(["sh", "-c", `cd ${writtenFolder()} && exec ${typedIn(3)}`]);
  try {
    await running.stderr.find("ready:", { timeoutMs: 60_000 });
    const asking = host.spawn(["sh", "-c", typedIn(4)]);
    assert.equal(await asking.stdout.find("hello"), "hello 127.0.0.1, you sent 3 bytes");
  } finally {
    // What `deno task` cannot hand on, such as SIGKILL, would leave it running.
    running.kill("SIGTERM");
    await running.ended();
  }
  assert.equal((await running.ended()).code, 0);
});

labTest("docs/apps.md: the app with a slow side greets as it is told, and counts", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const appliance = await Appliance.start(host, ["--config", `${slowSideFolder()}/tegula.toml`]);
  const http = async (...args: string[]) =>
    (await client.run(["curl", "--silent", "--max-time", "5", ...args, `http://${HOST}:5353/`]))
      .trim();
  assert.equal((await ask(asker, { port: 5353 })).text, `hello, ${CLIENT}\n`);
  await eventually("the count", async () => await http() === "greeted 1" || undefined);
  assert.equal(await http("--data", "good morning"), "posted");
  await eventually("the greeting", async () => {
    const { text } = await ask(asker, { port: 5353 });
    return text === `good morning, ${CLIENT}\n` || undefined;
  });
  assert.equal((await appliance.stop()).code, 0);
});

labTest("docs/apps.md: apps that ship can be copied, with what is said there", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const folder = Deno.makeTempDirSync({ prefix: "tegula-copies-" });
  try {
    // Users of apps read what they are granted.
    Deno.chmodSync(folder, 0o755);
    await host.run(["cp", "-r", ...copied(), folder]);
    const appliance = await Appliance.start(host, ["--config", copies(folder)]);
    assert.equal((await ask(asker, { port: 7 })).text, "hello");
    assert.equal((await ask(asker, { port: 37 })).bytes?.length, 4);
    const dig = await client.run("dig +short @198.18.0.1 example.org SOA".split(" "));
    assert.match(dig, /^ns1\.example\.org\. /);
    assert.equal((await appliance.stop()).code, 0);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

/** What ships, each at its usual port. */
const SHIPPED = { balance: 54, discard: 9, dns: 53, echo: 7, ntp: 123, statsd: 8125, time: 37 };

function copied(): string[] {
  const modules = Object.values(APPS).map(({ module }) =>
    ROOT + (module.startsWith("apps/dns/") ? "apps/dns" : module)
  );
  return [...modules, `${ROOT}apps/library`];
}

/** A configuration of the copies, by other names than the originals have. */
function copies(folder: string): string {
  const listen = Object.entries(SHIPPED).map(([name, port]) => `${port}=my-${name}`);
  const granted: Record<string, string> = {
    balance: `own_ports = ["20000-20001"]\noptions = { backends = ["198.18.0.2:54"] }`,
    dns: `read = ["${ZONE}"]\noptions = { zone = "${ZONE}" }`,
    ntp: "clock = true",
  };
  const apps = Object.keys(SHIPPED).map((name) =>
    `[apps.my-${name}]\nmodule = "${folder}/${APPS[name].module.slice("apps/".length)}"\n${
      granted[name] ?? ""
    }`
  );
  const text = `interfaces = ["eth0"]\nlisten = ${JSON.stringify(listen)}\n${apps.join("\n")}`;
  return temporaryFile(text, ".toml");
}
