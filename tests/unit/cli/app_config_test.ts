// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { join } from "node:path";
import { parseListen, planApps, readConfig } from "../../../cli/config.ts";
import { UserError } from "../../../cli/command.ts";
import { MOST_PORTS_SERVED } from "../../../tiles/runtime/plan.ts";
import { besideSetup, servicePlan } from "../../../tiles/runtime/wiring.ts";
import { NO_GRANTS } from "../../no_grants.ts";

/** Loads `toml` from a folder of its own, in which there is an app `mine.ts`. */
async function load(toml: string) {
  const folder = await Deno.makeTempDir({ prefix: "tegula-apps-" });
  try {
    await Deno.writeTextFile(join(folder, "mine.ts"), "export function answer() {}");
    await Deno.writeTextFile(join(folder, "tegula.toml"), toml);
    const config = await readConfig({ config: join(folder, "tegula.toml") });
    return { apps: planApps(config), folder };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function plan(...listen: string[]) {
  return planApps({ listen: listen.map(parseListen), apps: {}, file: null });
}

Deno.test("an app named for several ports is one app", () => {
  const apps = plan("7=echo", "9=discard", "1007=echo");
  assert.deepEqual(apps.map(({ name, ports }) => [name, ports]), [
    ["echo", [[7, 7], [1007, 1007]]],
    ["discard", [[9, 9]]],
  ]);
});

Deno.test("the n-th instance serves the ports that have as many", () => {
  const apps = plan("53=echo*3", "54=echo*2", "55=echo");
  assert.deepEqual(apps.map(({ name, ports }) => [name, ports]), [
    ["echo.1", [[53, 55]]],
    ["echo.2", [[53, 54]]],
    ["echo.3", [[53, 53]]],
  ]);
});

Deno.test("an app has the ports of ranges, those that follow each other in one", () => {
  const apps = plan("100-110=echo*2", "7=echo", "111=echo*2", "200-201=echo*2");
  assert.deepEqual(apps.map(({ name, ports }) => [name, ports]), [
    ["echo.1", [[100, 110], [7, 7], [111, 111], [200, 201]]],
    ["echo.2", [[100, 111], [200, 201]]],
  ]);
});

Deno.test("an app inside the net tiles is another one than the same in a process of its own", () => {
  assert.deepEqual(
    plan("7=echo", "8=echo@inline").map(({ ports, inline }) => [ports, inline]),
    [[[[7, 7]], false], [[[8, 8]], true]],
  );
});

Deno.test("an app that ships can have another name, and so be there twice", async () => {
  const { apps: [one, clock] } = await load(`
    listen = ["53=zones", "123=clock"]
    apps.zones = { module = "dns", options = { zone = "a" } }
    apps.clock.module = "ntp"
  `);
  assert.equal(one.module, new URL("../../../apps/dns/dns.ts", import.meta.url).href);
  assert.deepEqual([one.name, one.options], ["zones", { zone: "a" }]);
  assert.equal(clock.grants.clock, true, "what it has untold");
  // What is no name counts from the file, with ./ and without.
  for (const module of ["./mine.ts", "mine.ts"]) {
    const { apps: [mine] } = await load(`
      listen = ["7=mine"]
      apps.mine.module = "${module}"
    `);
    assert.match(mine.module, /^file:.*\/mine\.ts$/);
  }
  await assert.rejects(
    load(`
      listen = ["7=mine"]
      apps.mine.module = "ecko"
    `),
    {
      message: /^there is no app 'ecko'; the apps are .*echo.*, or a path such as \.\/my_app\.ts$/,
    },
  );
});

Deno.test("an app has no options and no grants but those of the configuration", async () => {
  const { apps: [plain] } = await load(`listen = ["7=./mine.ts"]`);
  assert.deepEqual([plain.options, plain.sendTo, plain.grants], [{}, [], NO_GRANTS]);
  const { apps: [mine], folder } = await load(`
    listen = ["7=mine"]
    [apps.mine]
    module = "./mine.ts"
    send_to = ["198.18.0.2", "198.51.100.7/24"]
    read = ["./zones", "/etc/zones"]
    env = ["NAME"]
    net = ["192.0.2.1:443"]
    clock = true
    [apps.mine.options]
    zone = "./zones/a"
    deep = { list = ["../b", "c"], number = 5 }
    unlike_json = [1979-05-27, inf]
  `);
  assert.equal(mine.name, "mine");
  assert.match(mine.module, /^file:.*\/mine\.ts$/);
  assert.deepEqual(mine.grants, {
    ...NO_GRANTS,
    read: [join(folder, "zones"), "/etc/zones"],
    env: ["NAME"],
    net: ["192.0.2.1:443"],
    clock: true,
  });
  assert.deepEqual(mine.options, {
    zone: join(folder, "zones/a"),
    deep: { list: [join(folder, "../b"), "c"], number: 5 },
    unlike_json: ["1979-05-27", "Infinity"],
  });
  assert.deepEqual(mine.sendTo, [
    { address: 0xc6120002 | 0, mask: -1 },
    { address: 0xc6336400 | 0, mask: 0xffffff00 | 0 },
  ]);
  assert.deepEqual(JSON.parse(JSON.stringify(mine)), mine);
});

Deno.test("whom an app refuses is the configuration's to say, and else the default", async () => {
  const { apps: [plain] } = await load(`listen = ["7=echo"]`);
  assert.ok(!("refuseSources" in plain) && !("mostPerSecond" in plain));
  const { apps: [told, , other] } = await load(`
    listen = ["7=echo*2", "37=time"]
    [apps.echo]
    refuse_sources = ["7", "0-52", "65535"]
    most_per_second = 100
    [apps.time]
    refuse_sources = []
  `);
  assert.deepEqual(told.refuseSources, [[7, 7], [0, 52], [65_535, 65_535]]);
  assert.equal(told.mostPerSecond, 100);
  assert.deepEqual(other.refuseSources, []);
});

Deno.test("an app's links are as deep as the configuration says", async () => {
  const deep = await load(`listen = ["7=echo", "8=time"]\n[apps.echo]\ndepth = 4096`);
  assert.deepEqual(deep.apps.map(({ depth }) => depth), [4096, undefined]);
  for (const depth of ["32", "32768", "1000", "64.5", '"64"']) {
    await assert.rejects(
      load(`listen = ["7=echo"]\n[apps.echo]\ndepth = ${depth}`),
      /:3: apps\.echo\.depth: must be a power of two from 64 to 16384, not /,
    );
  }
  await assert.rejects(
    load(`listen = ["7=echo@inline"]\n[apps.echo]\ndepth = 64`),
    /echo@inline has no process of its own, so it can have neither memory nor state nor depth/,
  );
});

Deno.test("an app's own ports are split among its instances, which share the others", async () => {
  const { apps } = await load(`
    listen = ["53=echo*3", "54=echo", "7=time"]
    [apps.echo]
    own_ports = ["20000-20005", "30000"]
  `);
  const seen = apps.map(({ app, instance, instances, ports, ownPorts }) => (
    { app, instance, instances, ports, ownPorts }
  ));
  const echo = (instance: number, own: [number, number][], ...ports: [number, number][]) => (
    { app: "echo", instance, instances: 3, ports: [...ports, ...own], ownPorts: own }
  );
  assert.deepEqual(seen, [
    { ...echo(0, [[20_000, 20_001]]), ports: [[53, 54], [20_000, 20_001]] },
    echo(1, [[20_002, 20_003]], [53, 53]),
    echo(2, [[20_004, 20_005], [30_000, 30_000]], [53, 53]),
    { app: "time", instance: 0, instances: 1, ports: [[7, 7]], ownPorts: [] },
  ]);
  const served = [20_000, 20_001, 53, 54];
  const { ports, ownPorts, instance, instances } = servicePlan(apps[0], served);
  assert.deepEqual({ ports, ownPorts, instance, instances }, {
    ...{ ports: [53, 54], ownPorts: [20_000, 20_001], instance: 0, instances: 3 },
  });
});

Deno.test("an app's own ports are nobody else's, and enough for its instances", async () => {
  const refused = (toml: string, sentence: RegExp) =>
    assert.rejects(load(toml), { name: "UserError", message: sentence });
  const [echo, own] = [`listen = ["7=echo*2", "8=time"]\n[apps.echo]\n`, "apps\\.echo\\.own_ports"];
  await refused(
    `${echo}own_ports = ["7-9"]`,
    new RegExp(`:3: ${own}: ports 7-8 are given twice: one port, one app$`),
  );
  await refused(
    `${echo}own_ports = ["10-20"]\n[apps.time]\nown_ports = ["20"]`,
    /:5: apps\.time\.own_ports: port 20 is given twice: one port, one app$/,
  );
  await refused(
    `${echo}own_ports = ["1001-${1000 + MOST_PORTS_SERVED}"]`,
    new RegExp(`:3: ${own}: ${MOST_PORTS_SERVED + 2} ports are too many`),
  );
  await refused(
    `${echo}own_ports = ["10"]`,
    new RegExp(`:3: ${own}: 1 are too few for 2 instances: each takes at least one$`),
  );
  await refused(
    `${echo}own_ports = "10-20"`,
    new RegExp(`${own}: must be a list such as \\["20000", "20000-20063"\\], not "10-20"$`),
  );
  await refused(
    `${echo}own_ports = ["0"]`,
    new RegExp(`${own}\\[0\\]: must be a port or a range such as .* from 1 to 65535, not "0"$`),
  );
  const inline = `listen = ["7=echo@inline"]\n[apps.echo]\nown_ports = ["10-20"]`;
  await refused(
    inline,
    new RegExp(
      `:3: ${own}: echo@inline runs in each net tile, so ports of its own require net_tiles = 1`,
    ),
  );
  await refused(
    `net_tiles = 1\n${inline.replace("]", ', "8=echo"]')}`,
    /echo runs both inline and in a process: give one of them another name$/,
  );
  const { apps: [one] } = await load(`net_tiles = 1\n${inline}`);
  assert.deepEqual(one.ownPorts, [[10, 20]]);
});

Deno.test("of the apps that ship ntp has the clock and times of packets, and none has more", () => {
  for (const name of ["discard", "dns", "echo", "ntp", "statsd", "time"]) {
    const [{ grants, packetTimes }] = plan(`7=${name}`);
    assert.deepEqual(grants, { ...NO_GRANTS, clock: name === "ntp" });
    assert.equal(packetTimes ?? false, name === "ntp");
  }
});

Deno.test("an app has times of packets if it is told so, and ntp has none if told not to", async () => {
  const { apps } = await load(`
    listen = ["123=ntp", "7=mine@inline"]
    apps.ntp.packet_times = false
    apps.mine = { module = "./mine.ts", packet_times = true }
  `);
  assert.deepEqual(apps.map(({ packetTimes }) => packetTimes), [false, true]);
});

Deno.test("what is wrong in an app's configuration is said with its place", async () => {
  const refused = (toml: string, sentence: RegExp) =>
    assert.rejects(load(toml), (error) => {
      assert.ok(error instanceof UserError, String(error));
      assert.match(error.message, sentence);
      return true;
    });
  const listen = `listen = ["7=echo"]\n`;
  await refused(
    `${listen}[apps.echo]\nrun = []`,
    /:3: apps.echo.run: unknown key; known are module,/,
  );
  await refused(`${listen}[apps.echo]\nread = "x"`, /apps\.echo\.read: must be a list such as/);
  await refused(`${listen}[apps.echo]\nsend_to = [1]`, /apps\.echo\.send_to\[0\]: must be a text/);
  await refused(`${listen}[apps]\necho = 1`, /apps\.echo: must be a table, not 1/);
  await refused(`${listen}[apps.echo]\nsend_to = ["x"]`, /'x' is not an IPv4 address or prefix/);
  for (const wrong of ['env = ["A=B"]', 'env = [""]', 'read = [""]', "write = [1]"]) {
    await refused(`${listen}[apps.echo]\n${wrong}`, /\[0\]: must be a text such as ".*", not ./);
  }
  for (const host of ["no such host", "192.0.2.1:99999", "192.0.2.1:0", "::1", "https://x", ""]) {
    await refused(`${listen}[apps.echo]\nnet = ["${host}"]`, /\.net\[0\]: must be .*:443", not /);
  }
  await load(`${listen}[apps.echo]\nnet = ["a-b.example", "[2001:db8::1]:53", "192.0.2.1"]`);
  await refused(
    `listen = ["7=statsd"]\n[apps.statsd.options]\nintervall = 3`,
    /\.toml:3: apps.statsd.options.intervall: statsd has no such option; it has interval$/,
  );
  await refused(
    `${listen}[apps.echo.options]\nx = 1`,
    /apps.echo.options.x: echo has no such option; it has none/,
  );
  await refused(
    `${listen}[apps.echo]\nrefuse_sources = "0-1023"`,
    /apps\.echo\.refuse_sources: must be a list such as \["7", "0-52"\], not "0-1023"/,
  );
  for (const wrong of ['"x"', '"9-7"', '"65536"', '"7-65536"', '"-1"', '""', '"1-2-3"', "7"]) {
    await refused(
      `${listen}[apps.echo]\nrefuse_sources = [${wrong}]`,
      /\.refuse_sources\[0\]: must be a port or a range such as "7" or "0-52", from 0 to 65535, not /,
    );
  }
  for (const wrong of ["-1", "1.5", '"5"', "inf"]) {
    await refused(
      `${listen}[apps.echo]\nmost_per_second = ${wrong}`,
      /apps\.echo\.most_per_second: must be a whole number, 1 or more, or 0 for no limit, not /,
    );
  }
  await refused(`${listen}[apps.ecco]\nclock = true`, /:2: apps.ecco: no port is given to it/);
  for (const name of ["nothing", "constructor", "__proto__"]) {
    const why = new RegExp(`there is no app '${name}'; the apps are balance, discard, dns,`);
    await refused(`listen = ["7=${name}"]`, why);
  }
  await refused(`listen = ["7=./other.ts"]`, /cannot read the app module .*other\.ts/);
  await refused(
    `listen = ["7=echo@inline"]\n[apps.echo]\nenv = ["X"]`,
    /echo@inline shares the net tile's worker, and can only be granted read and clock/,
  );
});

Deno.test("an app's process has 256 MiB and no state, unless the configuration says so", async () => {
  const { apps: [plain, bounded] } = await load(`
    listen = ["7=echo", "8=mine"]
    [apps.mine]
    module = "./mine.ts"
    memory = "1G"
    state = "64K"
  `);
  assert.deepEqual([plain.memoryMib, plain.stateBytes], [256, undefined]);
  assert.deepEqual([bounded.memoryMib, bounded.stateBytes], [1024, 65_536]);
});

Deno.test("sizes are texts with a unit, within bounds", async () => {
  const start = `listen = ["7=echo"]\n[apps.echo]\n`;
  const memory =
    /apps\.echo\.memory: must be a text such as "64M" \(K, M or G\), from 64M to 1024G, not /;
  for (const wrong of ["63M", "64", "64 M", "64m", "0.5G", "-1G", "1025G", "64MiB", ""]) {
    await assert.rejects(load(`${start}memory = "${wrong}"`), memory);
  }
  await assert.rejects(load(`${start}memory = 256`), memory);
  const state =
    /apps\.echo\.state: must be a text such as "64M" \(K, M or G\), from 4K to 1G, not /;
  for (const wrong of ["3K", "2G", "1"]) {
    await assert.rejects(load(`${start}state = "${wrong}"`), state);
  }
});

Deno.test("each process has a name of its own, without control characters", async () => {
  const mine = (name: string) => `[apps."${name}"]\nmodule = "./mine.ts"\n`;
  for (
    const [taken, listen, apps] of [
      ["net0", `"7=net0"`, mine("net0")],
      ["net1 to echo", `"7=net1 to echo"`, mine("net1 to echo")],
      ["netlink", `"7=netlink"`, mine("netlink")],
      ["status", `"7=status"`, mine("status")],
      ["a beside", `"7=a", "8=a beside"`, `${mine("a")}beside = "./mine.ts"\n${mine("a beside")}`],
    ] as const
  ) {
    await assert.rejects(load(`listen = [${listen}]\n${apps}`), {
      message: `"${taken}" is the name of another process or tile: give the app another name`,
    });
  }
  for (
    const [name, says] of [
      ["a\\nb", "contains a control character"],
      ["a\\u0000", "contains a control character"],
      ["v1.2", "ends like the name of an instance"],
    ]
  ) {
    await assert.rejects(load(`listen = ["7=${name}"]\n${mine(name)}`), {
      message: `"${name}" ${says}: give the app another name`,
    });
  }
  const { apps } = await load(
    `listen = ["7=echo@inline", "8=echo", "9=network"]\n${mine("network")}`,
  );
  assert.deepEqual(apps.map(({ name }) => name), ["echo", "echo", "network"]);
});

Deno.test("an app has a slow side where the configuration names it, or it ships with one", async () => {
  const { apps: [mine], folder } = await load(`
    listen = ["7-8=mine"]
    [apps.mine]
    module = "./mine.ts"
    beside = "./mine.ts"
    tcp = ["192.0.2.1", "::1"]
  `);
  const module = `file://${join(folder, "mine.ts")}`;
  assert.deepEqual(mine.beside, { module, tcp: ["192.0.2.1", "::1"] });
  assert.deepEqual(besideSetup(mine)!.tcp.map(({ address, port }) => `${address} ${port}`), [
    ...["192.0.2.1 7", "192.0.2.1 8", "::1 7", "::1 8"],
  ]);
  const dns = async (more: string) =>
    (await load(`listen = ["53=dns"]\n[apps.dns]\n${more}`)).apps[0].beside;
  assert.equal(await dns(""), undefined);
  assert.equal(
    (await dns(`tcp = ["192.0.2.1"]`))?.module,
    new URL("../../../apps/dns/tcp.ts", import.meta.url).href,
  );
});

Deno.test("a slow side that cannot be is refused in one sentence", async () => {
  const refused: readonly [listen: string, said: string, message: RegExp][] = [
    ["7=echo", `tcp = ["192.0.2.1"]`, /^echo has no slow side that could accept TCP: name its mod/],
    ["7=echo", `beside = "./mine.ts"`, /^echo ships with all that it needs: remove beside, or/],
    ["53=dns@inline", `tcp = ["192.0.2.1"]`, /^dns@inline has no process of its own, so it can /],
    ["7=echo", `tcp = ["eth0"]`, /apps\.echo\.tcp\[0\]: must be a text such as "192\.0\.2\.1"/],
    [
      "1-65=dns",
      `tcp = ["192.0.2.1"]`,
      /^dns is granted TCP on 65 addresses and ports: at most 64/,
    ],
  ];
  for (const [listen, said, message] of refused) {
    const app = /=(\w+)/.exec(listen)![1];
    await assert.rejects(load(`listen = ["${listen}"]\n[apps.${app}]\n${said}`), { message });
  }
});

Deno.test("an app inside net tiles has neither memory nor state of its own", async () => {
  for (const said of [`memory = "64M"`, `state = "4K"`]) {
    await assert.rejects(
      load(`listen = ["7=echo@inline"]\n[apps.echo]\n${said}`),
      /echo@inline has no process of its own, so it can have neither memory nor state/,
    );
  }
});
