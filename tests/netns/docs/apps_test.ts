// SPDX-License-Identifier: Apache-2.0
/**
 * What docs/apps.md says to type: the app that is written there, run by the source tree from the
 * folder that it is in, and asked as it is said there.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { APPS } from "../../../apps/registry.ts";
import project from "../../../deno.json" with { type: "json" };
import type { Namespace } from "../../../demo/lab.ts";
import { bundleCommand } from "../../../master/app_files.ts";
import { blockOfToml } from "../../documented_toml.ts";
import { examples, SLOW_SIDE, slowSideFolder, typedIn, writtenFolder } from "../../ten_minutes.ts";
import { configured, temporaryFile } from "../config_file.ts";
import { Appliance, ask, CLIENT, eventually, HOST, labTest, pair } from "../lab.ts";
import { nameServer, withServers, ZONE } from "../name_servers.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

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

labTest("docs/apps.md: dns and ntp answer clients by the block that is there", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const [tcp, address] = ["192.0.2.53", "192.0.2.53/32"];
  await host.ip(`address add ${address} dev eth0`);
  await client.ip(`route add ${address} via ${HOST}`);
  const block = blockOfToml('listen = ["53=dns*2", "123=ntp"]');
  const text = block.replaceAll("/etc/tegula/example.org.zone", ZONE);
  assert.notEqual(text, block);
  const appliance = await Appliance.start(host, configured(text));
  for (const to of [[`@${HOST}`], [`@${tcp}`], ["+tcp", `@${tcp}`]]) {
    const said = await client.run(["dig", "+short", ...to, "example.org", "SOA"]);
    assert.match(said, /^ns1\.example\.org\. /);
  }
  // ntpdate(8) refuses an answer from a host whose clock nobody keeps, which this one may be.
  const question = new Uint8Array(48).fill(7, 40);
  question[0] = 0x23;
  const { bytes } = await ask(asker, { port: 123, payload: question });
  assert.equal(bytes![0] & 0x3f, 0x24);
  assert.deepEqual(bytes!.subarray(24, 32), question.subarray(40));
  assert.equal((await appliance.stop()).code, 0);
});

labTest(
  "docs/apps.md: balance has servers answer a client by the block that is there",
  async (lab) => {
    const { host, client, servers, addresses } = await withServers(lab, 2);
    const running = await Promise.all(addresses.map((address) => nameServer(servers, address)));
    const config = configured(blockOfToml('listen = ["53=balance*2"]'));
    const appliance = await Appliance.start(host, config);
    const answered = () =>
      eventually("an answer", async () => {
        const asking = ["dig", `@${HOST}`, "+short", "+tries=1", "+timeout=1", "web.example.org"];
        return (await client.run(asking).catch(() => "")).includes("198.18.0.81") || undefined;
      });
    await answered();
    running[0].kill("SIGKILL");
    const { stderr } = appliance.process;
    for (const instance of ["balance.1", "balance.2"]) {
      await stderr.find(`${instance}: 198.18.5.1:53 is down: it did not answer 3 probes`);
    }
    // The other one has been probed as often.
    assert.ok(!stderr.all.some((line) => line.includes("198.18.5.2:53 is down")));
    await answered();
    assert.equal((await appliance.stop()).code, 0);
  },
);

/** What a shell in the client's namespace sends to a port, `in`, and what it gets. */
function shell(client: Namespace, port: number, script: string): Promise<string> {
  return client.run(["bash", "-c", `exec 3<>/dev/udp/${HOST}/${port}; ${script}`]);
}

/** Has a client try the example below a heading, which is served at `port`. */
const TRIED: Record<string, (client: Namespace, port: number) => Promise<void>> = {
  async "Ten minutes"(client, port) {
    const said = await shell(client, port, "printf abc >&3; head -n1 <&3");
    assert.equal(said, "hello 198.18.0.2, you sent 3 bytes\n");
  },
  async "The library"(client, port) {
    // Ten at once, and ten a second; the client's shell takes less than three.
    const flood = "for i in $(seq 60); do printf x >&3; done; timeout 1 cat <&3 || true";
    const answers = (await shell(client, port, flood)).length;
    assert.ok(answers >= 10 && answers < 60, `${answers} answers`);
  },
  async "The fast form"(client, port) {
    assert.equal(await shell(client, port, "echo back >&3; head -n1 <&3"), "back\n");
  },
  async "Send to others"(client, port) {
    const first = client.spawn([
      ...[
        "bash",
        "-c",
        `exec 3<>/dev/udp/${HOST}/${port}; echo one >&3; head -n1 <&3; head -n1 <&3`,
      ],
    ]);
    await first.stdout.find("one");
    assert.equal(await shell(client, port, "echo two >&3; head -n1 <&3"), "two\n");
    await first.stdout.find("two");
  },
  async "State"(client, port) {
    const said = await shell(client, port, "for i in 1 2; do printf x >&3; head -n1 <&3; done");
    assert.equal(said, "1\n2\n");
  },
};

labTest(
  "docs/apps.md: each example that is an app answers a client as it is said there",
  async (lab) => {
    const { host, client } = await pair(lab);
    const all = [...examples()].filter(({ heading }) => heading !== SLOW_SIDE);
    assert.deepEqual(all.map(({ heading }) => heading), Object.keys(TRIED));
    const apps = all.map(({ text }, i) => {
      const module = temporaryFile(text, ".ts");
      return `[apps.example${i}]\nmodule = "${module}"\nstate = "4K"\n`;
    });
    const listen = all.map((_, i) => `"${5000 + i}=example${i}"`);
    const config = `interfaces = ["eth0"]\nlisten = [${listen}]\n${apps.join("")}`;
    const appliance = await Appliance.start(host, ["--config", temporaryFile(config, ".toml")]);
    for (const [i, { heading }] of all.entries()) await TRIED[heading](client, 5000 + i);
    assert.equal((await appliance.stop()).code, 0);
  },
);

/** Apps of packages. */
const OF_PACKAGES: Readonly<Record<string, string>> = {
  // In CommonJS, and it uses modules of Node's.
  "dns-packet": `import { Buffer } from "node:buffer";
    import packet from "dns-packet";
    export function answer({ payload }: { payload: Uint8Array }) {
      const { id, questions } = packet.decode(Buffer.from(payload));
      const answers = questions.map(({ name }) => ({ type: "A", name, ttl: 1, data: "192.0.2.7" }));
      return packet.encode({ type: "response", id, questions, answers });
    }`,
  "smol-toml": `import { parse } from "smol-toml";
    export function answer({ payload }: { payload: Uint8Array }) {
      return \`\${JSON.stringify(parse(new TextDecoder().decode(payload)))}\\n\`;
    }`,
  "zod": `import { z } from "zod";
    const Reading = z.object({ sensor: z.string(), celsius: z.number().min(-273.15) });
    export function answer({ payload }: { payload: Uint8Array }) {
      const { data, error } = Reading.safeParse(JSON.parse(new TextDecoder().decode(payload)));
      return \`\${data?.sensor ?? error.issues[0].path}\\n\`;
    }`,
};

/** Makes a file of each app of packages by the command that is named, and returns their folder. */
async function bundled(): Promise<string> {
  const folder = Deno.makeTempDirSync({ prefix: "tegula-packages-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  Deno.chmodSync(folder, 0o755);
  const run = async (program: string, args: string[]) => {
    const options = { args, cwd: folder, stdout: "null", stderr: "inherit" } as const;
    const { success } = await new Deno.Command(program, options).output();
    assert.ok(success, [program, ...args].join(" "));
  };
  const { imports } = project;
  const config = { imports, nodeModulesDir: "auto", workspace: [] };
  Deno.writeTextFileSync(`${folder}/deno.json`, JSON.stringify(config));
  Deno.copyFileSync(`${ROOT}deno.lock`, `${folder}/deno.lock`);
  await run(Deno.execPath(), ["install", "--quiet", "--frozen"]);
  for (const [name, text] of Object.entries(OF_PACKAGES)) {
    Deno.writeTextFileSync(`${folder}/${name}.ts`, text);
    const command = bundleCommand(`./${name}.ts`).replace("npx", `"${Deno.execPath()}" run -A`)
      .replace("esbuild", imports.esbuild);
    await run("sh", ["-c", `${command} --log-level=error`]);
  }
  return folder;
}

labTest(
  "docs/apps.md: apps of three packages are one file each by the command that is named, and answer",
  async (lab) => {
    const folder = await bundled();
    const { host, client } = await pair(lab);
    const [dns, toml, zod] = Object.keys(OF_PACKAGES).map((name) =>
      `[apps.${name}]\nmodule = "${folder}/${name}.bundle.js"\n`
    );
    const listen = ["53=dns-packet", "5001=smol-toml", "5002=zod"];
    const config = `interfaces = ["eth0"]\nlisten = ${JSON.stringify(listen)}\n${dns}${toml}${zod}`;
    const appliance = await Appliance.start(host, ["--config", temporaryFile(config, ".toml")]);
    const answer = await client.run(`dig +short +tries=1 @${HOST} example.org`.split(" "));
    assert.equal(answer.trim(), "192.0.2.7");
    const asked = (port: number, text: string) =>
      shell(client, port, `printf %s '${text}' >&3; head -n1 <&3`);
    assert.equal(await asked(5001, 'a = [1, "two"]'), '{"a":[1,"two"]}\n');
    assert.equal(await asked(5002, '{"sensor": "attic", "celsius": 21.5}'), "attic\n");
    assert.equal(await asked(5002, '{"sensor": "attic", "celsius": -300}'), "celsius\n");
    assert.equal((await appliance.stop()).code, 0);
  },
);

/** What ships, each at its usual port. */
const SHIPPED = { balance: 54, discard: 9, dns: 53, echo: 7, ntp: 123, statsd: 8125, time: 37 };

function copied(): string[] {
  const modules = Object.values(APPS).map(({ module }) =>
    ROOT + (module.startsWith("apps/dns/") ? "apps/dns" : module)
  );
  return [...modules, `${ROOT}apps/library`, `${ROOT}apps/options.ts`];
}

/** A configuration of the copies, by other names than the originals have. */
function copies(folder: string): string {
  const listen = Object.entries(SHIPPED).map(([name, port]) => `${port}=my-${name}`);
  const granted: Record<string, string> = {
    balance: `own_ports = ["20000-20001"]\noptions = { backends = ["198.18.0.2:54"] }`,
    dns: `read = ["${ZONE}", "${folder}/options.ts"]\noptions = { zone = "${ZONE}" }`,
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
