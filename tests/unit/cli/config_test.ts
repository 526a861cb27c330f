// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  checkConfig,
  listenText,
  parseListen,
  planApps,
  readConfig,
  type RunConfig,
} from "../../../cli/config.ts";
import { Exit, UserError } from "../../../cli/command.ts";
import { MOST_PORTS_SERVED } from "../../../tiles/runtime/plan.ts";
import fc from "../property.ts";

/** Asserts that `body` fails with one sentence that matches, and with the usage status. */
async function assertRefused(body: () => unknown, sentence: RegExp): Promise<void> {
  await assert.rejects(async () => await body(), (error) => {
    assert.ok(error instanceof UserError, String(error));
    assert.match(error.message, sentence);
    assert.equal(error.message.includes("\n"), false, "more than one line");
    assert.equal(error.status, Exit.usage);
    return true;
  });
}

/** Loads `toml` as a file in a folder of its own. */
async function load(toml: string): Promise<{ config: RunConfig; folder: string }> {
  const folder = await Deno.makeTempDir({ prefix: "tegula-config-" });
  try {
    const path = join(folder, "tegula.toml");
    await Deno.writeTextFile(path, toml);
    return { config: await readConfig({ config: path }), folder };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("parseListen() reads a port and an app", () => {
  assert.deepEqual(parseListen("7=echo"), {
    ports: [7, 7],
    app: "echo",
    instances: 1,
    inline: false,
  });
  assert.deepEqual(parseListen("65535=./a=b.ts"), {
    ports: [65535, 65535],
    app: "./a=b.ts",
    instances: 1,
    inline: false,
  });
});

Deno.test("parseListen() reads how many instances share a port", () => {
  assert.deepEqual(parseListen("5353=./dns.ts*4"), {
    ports: [5353, 5353],
    app: "./dns.ts",
    instances: 4,
    inline: false,
  });
});

Deno.test("parseListen() reads a range of ports in each form", () => {
  const range = (text: string) => parseListen(text);
  const plain = { ports: [5300, 5363], app: "echo", instances: 1, inline: false };
  assert.deepEqual(range("5300-5363=echo"), plain);
  assert.deepEqual(range("5300-5363=echo*2"), { ...plain, instances: 2 });
  assert.deepEqual(range("5300-5363=echo@inline"), { ...plain, inline: true });
  assert.deepEqual(range("1-65535=./a-b=c.ts"), {
    ...plain,
    ports: [1, 65535],
    app: "./a-b=c.ts",
  });
  assert.deepEqual(range("7-7=echo").ports, [7, 7]);
});

Deno.test("parseListen() takes back whatever is written as PORT=APP*INSTANCES", () => {
  const app = fc.stringMatching(/^[a-z./_-]{1,20}$/);
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 65535 }),
      app,
      fc.integer({ min: 1, max: 64 }),
      (port, app, instances) =>
        assert.deepEqual(parseListen(`${port}=${app}*${instances}`), {
          ports: [port, port],
          app,
          instances,
          inline: false,
        }),
    ),
  );
});

Deno.test("parseListen() reads where the app runs", async () => {
  assert.equal(parseListen("7=echo@inline").inline, true);
  await assertRefused(() => parseListen("7=echo*4@inline"), /is not PORT=APP/);
  await assertRefused(() => load("metrics = 9464"), /metrics: must be ADDRESS:PORT.*, not 9464/);
  assert.deepEqual(
    [parseListen("7=./a@b/c.ts").app, parseListen("7=./a@b/c.ts").inline],
    ["./a@b/c.ts", false],
  );
  await assertRefused(() => parseListen("7=echo@outside"), /is not .* or PORT=APP@inline/);
});

Deno.test("parseListen() says what is wrong and what is allowed", async () => {
  const wrong = [
    "echo",
    "0=echo",
    "7.5=echo",
    "=echo",
    "7=",
    "7=echo*0",
    "7=echo*65",
  ];
  const ranges = ["7-=echo", "-7=echo", "0-7=echo", "7-8-9=echo", "a-b=echo"];
  for (const text of [...wrong, ...ranges, "7=echo*many", "7=echo*", "7=echo@"]) {
    const said = `"${
      RegExp.escape(text)
    }" is not PORT=APP, for example 7=echo, .* to 65535 .* to 64$`;
    await assertRefused(() => parseListen(text), new RegExp(said));
  }
  for (const ports of ["65536", "7-65536", "70000-80000"]) {
    const says = /"[\d-]+=echo": a port is at most 65535, not (65536|70000)$/;
    await assertRefused(() => parseListen(`${ports}=echo`), says);
  }
});

Deno.test("parseListen() names a range that goes backwards, and the one that was meant", async () => {
  await assertRefused(
    () => parseListen("5363-5300=echo"),
    /"5363-5300=echo" has its ports in the wrong order: write 5300-5363=echo$/,
  );
});

Deno.test("listenText() says it as it is written, neighbouring ports as ranges", () => {
  const text = (...listen: string[]) => listenText(listen.map(parseListen));
  assert.equal(text("7=echo"), "7=echo");
  assert.equal(
    text("5300-5363=echo*2", "7=echo", "8=echo", "9-10=echo", "53=dns@inline", "12=echo"),
    "5300-5363=echo*2 7-10=echo 12=echo 53=dns@inline",
  );
});

Deno.test("listenText() names the ports that are an app's own", async () => {
  const { config } = await load(`
    listen = ["53=balance*2", "7=echo"]
    [apps.balance]
    own_ports = ["20000-20063", "30000"]
  `);
  assert.equal(
    listenText(config.listen, planApps(config)),
    "53=balance*2 7=echo (own ports of balance: 20000-20063, 30000)",
  );
});

Deno.test("readConfig() reads every key", async () => {
  const { config, folder } = await load(`
    interfaces = ["eth0", "eth1"]
    listen = ["7=echo", "37=time*2", "5300-5363=echo"]
    provider = "xdp"
    net_tiles = 2
    checksums = "nic"
    busy_poll = true
    dispatcher = true
  `);
  assert.deepEqual(config, {
    interfaces: ["eth0", "eth1"],
    listen: ["7=echo", "37=time*2", "5300-5363=echo"].map(parseListen),
    apps: {},
    provider: "xdp",
    checksums: "nic",
    busyPoll: true,
    dispatcher: true,
    netTiles: 2,
    file: join(folder, "tegula.toml"),
  });
});

Deno.test("readConfig() leaves to the defaults what an empty file does not say", async () => {
  const { config, folder } = await load("");
  assert.deepEqual(config, {
    interfaces: [],
    listen: [],
    apps: {},
    provider: "auto",
    checksums: "verify",
    busyPoll: false,
    dispatcher: false,
    file: join(folder, "tegula.toml"),
  });
});

Deno.test("readConfig() seeks an app's module from the file's own folder", async () => {
  const { config, folder } = await load(`listen = ["7=./app.ts", "8=/opt/app.ts", "9=discard"]`);
  const { listen: [given] } = await readConfig({ listen: ["7=./app.ts"] });
  assert.equal(given.app, join(Deno.cwd(), "app.ts"));
  assert.deepEqual(config.listen.map((one) => one.app), [
    join(folder, "app.ts"),
    "/opt/app.ts",
    "discard",
  ]);
});

Deno.test("readConfig() names the place of what is wrong", async () => {
  await assertRefused(
    () => load(`interface = "eth0"`),
    /:1: interface: unknown key; known are interf/,
  );
  await assertRefused(() => load(`interfaces = "eth0"`), /interfaces: must be a list such as/);
  await assertRefused(() => load(`interfaces = ["a b"]`), /interfaces\[0\]: must be the name/);
  await assertRefused(() => load(`interfaces = ["${"x".repeat(16)}"]`), /at most 15 characters/);
  await assertRefused(() => load(`listen = ["7=echo", "x=y"]`), /listen\[1\]: "x=y" is not PORT/);
  await assertRefused(() => load(`listen = [7]`), /listen\[0\]: must be a text such as "7=echo"/);
  await assertRefused(
    () => load(`provider = "dpdk"`),
    /provider: must be one of auto, xdp, socket/,
  );
  await assertRefused(
    () => load(`net_tiles = 0`),
    /net_tiles: must be a whole number from 1 to 64, not 0/,
  );
  await assertRefused(() => load(`checksums = "none"`), /checksums: must be one of verify, nic/);
  await assertRefused(() => load(`busy_poll = 20`), /busy_poll: must be true or false/);
  await assertRefused(() => load(`net_tiles = 1.5`), /net_tiles: must be a whole number/);
});

Deno.test("readConfig() shows of a long value and of a long key only how they begin", async () => {
  const long = "😀x".repeat(100_000);
  const values = [
    ...[`listen = ["${long}"]`, `listen = ["70000=${long}"]`, `listen = ["9-8=${long}"]`],
    ...[`provider = "${long}"`, `user = ["${long}"]`, `${long.replaceAll("😀", "a")} = 1`],
    ...[`["${long}"]`, `[apps.a]\nsend_to = ["${long}"]`, `[apps.a]\nmemory = "${long}"`],
    `[apps."${long}"]\nread = 7`,
  ];
  for (const text of values) {
    await assert.rejects(load(text), ({ message }: Error) => {
      assert.ok(message.length < 700, `${message.length} characters`);
      assert.ok(message.isWellFormed());
      assert.match(message, /…/);
      return true;
    });
  }
  const planned = load(`listen = ["7=${long}"]`).then(({ config }) =>
    planApps({ ...config, netTiles: 1 })
  );
  await assert.rejects(planned, ({ message }: Error) => message.length < 300);
});

Deno.test("readConfig() names the line, also within an array and a table", async () => {
  const lines = (...all: string[]) => () => load(all.join("\n"));
  await assertRefused(lines("# one", "", "provider = 'dpdk'", "user = 1"), /\.toml:3: provider: /);
  const wrong = ["listen = [", "  '7=echo', # first", "  '8',", "  '9=echo',", "]"];
  await assertRefused(lines(...wrong), /\.toml:3: listen\[1\]: "8" is not PORT=APP/);
  const app = [
    "interfaces = ['eth0']",
    "[apps.echo]",
    "read = []",
    "",
    "clok = true",
    "keep = true",
  ];
  await assertRefused(lines(...app), /\.toml:5: apps\.echo\.clok: unknown key/);
  const twice = ["interfaces = ['eth0', 'eth1',", "  'eth0']", "listen = ['7=echo', '9=echo',"];
  await assertRefused(
    lines(...twice, "'1-8=time']"),
    /:2: interfaces\[2\]: interface eth0 is given/,
  );
  const ports = ["listen = ['7=echo', '9=echo',", " '1-8=time', '20=dns']"];
  await assertRefused(lines(...ports), /:2: listen\[2\]: port 7 is given twice/);
});

Deno.test("readConfig() says of a file that it is missing, or may not be read", async () => {
  await assertRefused(
    () => readConfig({ config: "/nonexistent/tegula.toml" }),
    /^cannot read the configuration file \/nonexistent\/tegula\.toml: not found; check the path$/,
  );
  await assertRefused(() => readConfig({ config: "/tmp" }), /file \/tmp: it is a folder$/);
});

Deno.test("readConfig() holds options to the same, and lets them say it instead of the file", async () => {
  await assertRefused(() => readConfig({ provider: "dpdk" }), /--provider: .* socket, not "dpdk"/);
  await assertRefused(() => readConfig({ "net-tiles": "1e1" }), /--net-tiles: .* to 64, not "1e1"/);
  await assertRefused(() => readConfig({ interface: ["a/b"] }), /--interface: must be the name/);
  await assertRefused(() => readConfig({ listen: ["echo"] }), /--listen: "echo" is not PORT=APP/);
  for (const metrics of ["::1:1", "[127.0.0.1]:1", "there:1", "127.0.0.1:65536", "localhost"]) {
    await assertRefused(() => readConfig({ metrics }), /--metrics: must be ADDRESS:PORT.*65535/);
  }
  for (const metrics of ["127.0.0.1:65535", "localhost:9464", "[::1]:9464", "[::]:1"]) {
    assert.equal((await readConfig({ metrics })).metrics, metrics);
  }
  const folder = await Deno.makeTempDir({ prefix: "tegula-config-" });
  try {
    const config = join(folder, "tegula.toml");
    await Deno.writeTextFile(config, `provider = "xdp"\nnet_tiles = 2\ninterfaces = ["eth0"]`);
    const both = await readConfig({ config, provider: "socket", interface: ["eth1"] });
    assert.deepEqual(
      [both.provider, both.netTiles, both.interfaces],
      ["socket", 2, ["eth0", "eth1"]],
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("readConfig() gives line and column where the file is not TOML", async () => {
  await assertRefused(() => load(`\nlisten = [`), /tegula\.toml:2:\d+: /);
});

Deno.test("readConfig() waits for no pipe and no device, and reads no file of any length", async () => {
  const folder = Deno.makeTempDirSync();
  new Deno.Command("mkfifo", { args: [`${folder}/pipe`] }).outputSync();
  using long = Deno.createSync(`${folder}/long`);
  long.truncateSync(17 * 2 ** 20);
  for (
    const [path, says] of [
      [`${folder}/pipe`, /pipe: it is not a file$/],
      ["/dev/zero", /zero: it is not a file$/],
      [`${folder}/long`, /long: it is longer than 16777216 bytes$/],
    ] as const
  ) {
    await assertRefused(() => readConfig({ config: path }), says);
  }
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("readConfig() says that a file cannot be read", async () => {
  await assertRefused(
    () => readConfig({ config: "/nowhere/tegula.toml" }),
    /cannot read the configuration .*no/i,
  );
});

Deno.test("readConfig() reads what to announce, in the default table unless one is named", async () => {
  const { config } = await load(
    `[announce]\naddresses = ["203.0.113.53", "203.0.113.52/31", "203.0.113.0/24"]`,
  );
  assert.deepEqual(config.announce, {
    addresses: [
      { address: 0xcb007135, length: 32 },
      { address: 0xcb007134, length: 31 },
      { address: 0xcb007100, length: 24 },
    ],
    table: 5353,
  });
  const named = await load(`[announce]\naddresses = ["203.0.113.53/32"]\ntable = 252`);
  assert.equal(named.config.announce?.table, 252);
  assert.equal((await load("")).config.announce, undefined);
});

Deno.test("readConfig() refuses an announcement that would not be what it says", async () => {
  const refused = (lines: string, sentence: RegExp) =>
    assertRefused(() => load(`[announce]\n${lines}`), sentence);
  const one = `addresses = ["203.0.113.53/32"]`;
  for (const table of [0, 253, 254, 255, -1, 2 ** 32]) {
    await refused(
      `${one}\ntable = ${table}`,
      /announce\.table: must be the number of .* 5353, not /,
    );
  }
  for (const prefix of ["203.0.113.53/24", "0.0.0.0/0", "10.0.0.0/7", "203.0.113", "::1", "a/32"]) {
    await refused(
      `addresses = ["${prefix}"]`,
      /announce\.addresses\[0\]: must be an IPv4 address, or a prefix .*"203\.0\.113\.53\/32"/,
    );
  }
  await refused(
    "addresses = []",
    /announce\.addresses: must name an address, .*leave \[announce\] out/,
  );
  await refused("table = 1", /announce\.addresses: must be a list such as/);
  await refused(`addresses = ["203.0.113.53", "203.0.113.53/32"]`, /must name each address once/);
  await refused(`${one}\ntables = 1`, /announce\.tables: unknown key; known are addresses, table$/);
});

Deno.test("readConfig() wants ports and interfaces once each, in file and options together", async () => {
  const options = (...listen: string[]) => readConfig({ listen });
  await assertRefused(
    () => readConfig({ interface: ["eth0", "eth0"] }),
    /^interface eth0 is given twice/,
  );
  await assertRefused(() => options("7=echo", "7=time"), /^port 7 is given twice/);
  await options("5364-5400=time", "5300-5363=echo", "1-4=echo");
  await assertRefused(
    () => options("5350-5400=time", "5300-5363=echo"),
    /ports 5350-5363 are given twice/,
  );
  await assertRefused(() => options("1-9=echo", "3=time"), /port 3 is given twice/);
  await assertRefused(() => options("3-5=echo", "1-9=time"), /ports 3-5 are given twice/);
  const folder = await Deno.makeTempDir({ prefix: "tegula-config-" });
  try {
    const config = join(folder, "tegula.toml");
    await Deno.writeTextFile(
      config,
      'interfaces = ["eth0"]\nlisten = ["7=echo"]\n[apps.echo]\nown_ports = ["9"]',
    );
    const both = (options: { interface?: string[]; listen?: string[] }) => () =>
      readConfig({ config, ...options });
    await assertRefused(both({ interface: ["eth0"] }), /^interface eth0 is given twice/);
    await assertRefused(both({ listen: ["7=time"] }), /^port 7 is given twice/);
    await assertRefused(both({ listen: ["9=time"] }), /own_ports: port 9 is given twice/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("checkConfig() wants a port, and no options that contradict each other", async () => {
  const good: RunConfig = {
    interfaces: ["eth0"],
    listen: [parseListen("7=echo")],
    apps: {},
    provider: "auto",
    checksums: "verify",
    busyPoll: false,
    dispatcher: false,
    file: null,
  };
  checkConfig(good);
  await assertRefused(() => checkConfig({ ...good, listen: [] }), /no port to answer on/);
  await assertRefused(
    () => checkConfig({ ...good, provider: "socket", busyPoll: true }),
    /does not use AF_XDP, which --busy-poll/,
  );
  await assertRefused(
    () => checkConfig({ ...good, provider: "socket", dispatcher: true }),
    /does not use AF_XDP, .* --dispatcher need$/,
  );
});

Deno.test("readConfig() takes as many ports as can be served, and no more", async () => {
  const most = MOST_PORTS_SERVED;
  await readConfig({ listen: [`1001-${1000 + most}=echo`] });
  await readConfig({ listen: Array.from({ length: most }, (_, i) => `${1000 + 2 * i}=echo`) });
  await assertRefused(
    () => readConfig({ listen: [`1001-${1000 + most}=echo`, "7=echo"] }),
    new RegExp(`^${most + 1} ports are too many: one Tegula serves at most ${most}$`),
  );
});
