// SPDX-License-Identifier: Apache-2.0
/**
 * The status tile of a running appliance, from outside: what it answers over its control socket and as
 * metrics, and how it begins and ends.
 */

import assert from "node:assert/strict";
import { selfCommand, VERSION } from "../../../cli/command.ts";
import type { Counters } from "../../../demo/lab.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  ECHO,
  eventually,
  growth,
  HOST,
  labTest,
  type Namespace,
  pair,
  refusal,
  socketPath,
} from "../lab.ts";
import { temporaryFile } from "../config_file.ts";
import { applianceOf, processesOf } from "../processes.ts";

/** Runs `tegula ARGS…` in a namespace and returns what it printed. */
function tegula(namespace: Namespace, ...args: string[]): Promise<string> {
  return namespace.run([...selfCommand(), ...args]);
}

/** Says lines to a control socket and returns the lines that come back. */
async function converse(path: string, lines: readonly string[]): Promise<string[]> {
  using connection = await Deno.connect({ transport: "unix", path });
  await connection.write(new TextEncoder().encode(lines.map((line) => `${line}\n`).join("")));
  await connection.closeWrite();
  return (await new Response(connection.readable).text()).trimEnd().split("\n");
}

labTest(
  "a running appliance answers as show and route get do that look for themselves",
  async (lab) => {
    const { host, client, asker } = await pair(lab);
    const [{ address }] = JSON.parse(await client.ip("-j link show dev eth0"));
    await host.batch([
      `neighbour add ${CLIENT} lladdr ${address} dev eth0`,
      "route add default via 198.18.0.2 metric 20",
      "route add default via 198.18.0.3 metric 10",
      "route add 192.0.2.0/24 nexthop via 198.18.0.2 weight 2 nexthop via 198.18.0.3",
      "route add blackhole 203.0.113.0/24",
      // None of which the state changes meanwhile.
      "neighbour add 198.18.0.3 lladdr 02:00:00:00:00:03 dev eth0",
      "neighbour add 198.18.0.9 lladdr 02:00:00:00:00:09 dev eth0",
    ]);
    const control = socketPath();
    await Appliance.start(host, [...ECHO, "--control", control]);
    assert.equal((await ask(asker)).text, "hello");
    for (const what of ["interfaces", "routes", "neighbors"]) {
      for (const format of [["-j"], []]) {
        const own = await tegula(host, "show", what, ...format);
        assert.ok(own.length > 100, `${what}: ${own}`);
        assert.equal(await tegula(host, "show", what, ...format, "--control", control), own);
      }
    }
    for (
      const address of ["8.8.8.8", "192.0.2.7", "203.0.113.1", HOST, CLIENT, "255.255.255.255"]
    ) {
      const own = await tegula(host, "route", "get", address, "-j");
      assert.equal(await tegula(host, "route", "get", address, "-j", "--control", control), own);
    }
  },
);

labTest("route get - answers each address with a line, in order, live too", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  await Appliance.start(host, [...ECHO, "--control", control]);
  await host.batch(
    Array.from({ length: 64 }, (_, i) => `route add 192.0.${i}.0/24 via 198.18.0.2`),
  );
  await eventually("the last route", async () => {
    const way = await tegula(host, "route", "get", "192.0.63.1", "--control", control);
    return way.includes("via 198.18.0.2") ? true : undefined;
  });
  const file = await Deno.makeTempFile();
  const addresses = Array.from({ length: 200_000 }, (_, i) => `192.0.${i % 100}.${i % 251}`);
  const bad = ["x".repeat(100_000), "010.0.0.1"];
  await Deno.writeTextFile(file, [...addresses, ...bad].join("\n"));
  const outputs = await Promise.all([[], ["--control", control]].map(async (live) => {
    const command = [...selfCommand(), "route", "get", "-", ...live].join(" ");
    const script = `${command} < ${file}; test $? = 1`;
    return await host.run(["sh", "-c", script]);
  }));
  assert.equal(outputs[0], outputs[1]);
  const entries = outputs[0].trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(entries.slice(0, -2).map(({ dst }) => dst), addresses);
  assert.match(entries.at(-2).error, /^no IPv4 address: "x{256}"$/);
  assert.deepEqual(entries.at(-1), { error: 'no IPv4 address: "010.0.0.1"' });
  assert.equal(entries[1].gateway, "198.18.0.2");
  assert.equal(entries[99].type, "none");
  await Deno.remove(file);
});

labTest(
  "what cannot be answered is answered with an error, and the conversation goes on",
  async (lab) => {
    const { host } = await pair(lab);
    const control = socketPath();
    await Appliance.start(host, [...ECHO, "--control", control]);
    // The status tile learns of AF_XDP a moment after the log.
    let asked = 0;
    await eventually("AF_XDP", async () => {
      asked++;
      const [status] = await converse(control, ['{"do":"status"}']);
      return JSON.parse(status).xdp.length === 1 || undefined;
    });
    const bad = [
      "",
      "null",
      "[",
      '{"do":"constructor"}',
      '{"do":"show","what":"everything"}',
      '{"do":"route","destination":8}',
      '{"do":"capture","drops":"yes"}',
    ];
    const answers = await converse(control, [...bad, '{"do":"status"}']);
    assert.equal(answers.length, bad.length + 1);
    for (const answer of answers.slice(0, -1)) assert.ok("error" in JSON.parse(answer), answer);
    const status = JSON.parse(answers.at(-1)!);
    assert.equal(status.sync, "synced");
    assert.deepEqual([status.interfaces, status.xdp], [["eth0"], ["eth0"]]);
    assert.deepEqual(status.listen, [{ port: 7, app: "echo" }]);
    const [{ status: { control_errors, control_requests } }] =
      (await converse(control, ['{"do":"counters"}']))
        .map((line) => JSON.parse(line));
    assert.deepEqual({ control_errors, control_requests }, {
      control_errors: bad.length,
      control_requests: bad.length + 2 + asked,
    });
  },
);

labTest(
  "the control socket is for user and group, in /run/tegula, and goes with the appliance",
  async (lab) => {
    const { host, client } = await pair(lab);
    await lab.join({ namespace: host, name: "tegutest0", addresses: ["192.0.2.1/24"] }, {
      namespace: client,
      name: "other",
    });
    const path = "/run/tegula/tegutest0.sock";
    const appliance = await Appliance.start(host, [
      "--interface",
      "tegutest0",
      "--listen",
      "9=discard",
    ]);
    assert.equal(Deno.statSync(path).mode! & 0o777, 0o660);
    assert.equal(JSON.parse((await converse(path, ['{"do":"status"}']))[0]).sync, "synced");
    await appliance.stop();
    assert.throws(() => Deno.statSync(path), Deno.errors.NotFound);
  },
);

labTest(
  "the socket of a dead appliance is replaced, that of a live one is not taken",
  async (lab) => {
    const { host, client } = await pair(lab);
    const control = socketPath();
    const first = await Appliance.start(host, [...ECHO, "--control", control]);
    const rival = ["--interface", "eth0", "--listen", "9=discard", "--provider", "socket"];
    const refused = Appliance.launch(client, [...rival, "--control", control]);
    assert.equal((await refused.process.ended()).code, 2);
    assert.match(refused.process.stderr.all.join("\n"), /another tegula listens there/);
    assert.equal((await converse(control, ['{"do":"status"}'])).length, 1);
    await first.stop("SIGKILL");
    assert.ok(Deno.lstatSync(control).isSocket);
    await Appliance.start(client, [...rival, "--control", control]);
    assert.equal(
      JSON.parse((await converse(control, ['{"do":"status"}']))[0]).listen[0].app,
      "discard",
    );
  },
);

labTest("whoever asks while the master is stopped is answered by the appliance", async (lab) => {
  const { host, asker } = await pair(lab);
  const control = socketPath();
  const appliance = await Appliance.start(host, [...ECHO, "--control", control]);
  appliance.process.kill("SIGSTOP");
  assert.match(await tegula(host, "audit", "--control", control), /, 0 divergent\n/);
  assert.equal((await ask(asker)).text, "hello");
});

labTest("an appliance that is stopped is replaced, and nobody asks it in vain", async (lab) => {
  const { host, asker } = await pair(lab);
  const control = socketPath();
  const appliance = await Appliance.start(host, [...ECHO, "--control", control]);
  assert.equal((await ask(asker)).text, "hello");
  const capture = host.spawn([...selfCommand(), "capture", "--control", control]);
  await capture.stderr.find("capturing");
  const stopped = applianceOf(appliance.process.pid);
  Deno.kill(stopped, "SIGSTOP");
  const asking = ["audit", "show routes", `route get ${CLIENT}`, `explain ${CLIENT}`]
    .map((words) => host.spawn([...selfCommand(), ...words.split(" "), "--control", control]));
  // It waits in the ring for the next one.
  assert.equal((await ask(asker)).text, "hello");
  await appliance.process.stderr.find("appliance: it hangs; starting a successor");
  await appliance.process.stderr.find("appliance: the successor serves");
  assert.notEqual(applianceOf(appliance.process.pid), stopped);
  for (const process of [capture, ...asking]) {
    const { code } = await process.ended();
    if (code === 0) continue;
    assert.equal(code, 1);
    assert.match(process.stderr.all.at(-1)!, /^tegula: /);
  }
  assert.match(await tegula(host, "audit", "--control", control), /, 0 divergent\n/);
});

labTest("where it cannot listen is named with its option, status 2 or 5", async (lab) => {
  const { host } = await pair(lab);
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${folder}/file`, "");
  const places: [option: string, place: string, why: RegExp, status: number][] = [
    ["--control", `${folder}/none/x.sock`, /ENOENT, not found/, 2],
    ["--control", `${folder}/file`, /ENOTSOCK, not a socket/, 2],
    ["--control", `${folder}/${"x".repeat(108)}`, /ENAMETOOLONG, the path is too long/, 2],
    ["--metrics", "192.0.2.7:9464", /EADDRNOTAVAIL, address not available/, 5],
  ];
  for (const [option, place, why, status] of places) {
    const control = ["--control", `${folder}/control.sock`];
    const { process } = Appliance.launch(host, [...ECHO, ...control, option, place]);
    const { code, said } = await refusal(process);
    assert.equal(code, status, said);
    assert.match(said, why);
    assert.ok(said.includes(option) && said.includes(place), said);
  }
  assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["file"]);
});

/** Head and body of what HTTP gives at `path` of the metrics' address. */
async function get(namespace: Namespace, path: string, hostname = HOST): Promise<string[]> {
  const program = `const connection = await Deno.connect({ hostname: "${hostname}", port: 9464 });
    const request = "GET ${path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n";
    await connection.write(new TextEncoder().encode(request));
    await connection.readable.pipeTo(Deno.stdout.writable);`;
  return (await namespace.run([Deno.execPath(), "eval", program])).split("\r\n\r\n");
}

const LOADED_AT = "tegula_config_last_reload_success_timestamp_seconds";

labTest("the metrics tell every tile's counters in Prometheus's format", async (lab) => {
  const { host, asker } = await pair(lab);
  await Appliance.start(host, [...ECHO, "--control", "none", "--metrics", "198.18.0.1:9464"]);
  for (let i = 0; i < 3; i++) assert.equal((await ask(asker)).text, "hello");
  // Ports are counted up to a tenth of a second later.
  const [head, fetched] = await eventually("the ports' counters", async () => {
    const answer = await get(host, "/metrics");
    return /^tegula_port_packets_total\{.*direction="tx"\} 3$/m.test(answer[1])
      ? answer
      : undefined;
  });
  assert.match(head, /^HTTP\/1.1 200 .*content-type: text\/plain; version=0.0.4/is);
  const families = new Map<string, string>();
  const samples = new Map<string, number>();
  for (const line of fetched.trimEnd().split("\n")) {
    const comment = /^# (?:HELP (\w+) \S.*|TYPE (\w+) (counter|gauge|histogram))$/.exec(line);
    if (comment?.[2] !== undefined) families.set(comment[2], comment[3]);
    if (comment !== null) continue;
    const sample = /^(((?:tegula|process)_\w+)(?:\{(?:\w+="[^"]+",?)+\})?) ([0-9.e+-]+)$/.exec(
      line,
    );
    assert.ok(sample !== null, line);
    const family = sample[2].replace(/_(bucket|sum|count)$/, "");
    const type = families.get(sample[2]) ?? families.get(family);
    assert.ok(type !== undefined, line);
    assert.equal(sample[2].endsWith("_total"), type === "counter", line);
    samples.set(sample[1], Number(sample[3]));
  }
  assert.equal(samples.get("tegula_ready"), 1);
  assert.equal(samples.get('tegula_unwell{reason="no_progress"}'), 0);
  assert.equal(samples.get('tegula_sync_state{state="synced"}'), 1);
  assert.equal(samples.get('tegula_tile_running{tile="status"}'), 1);
  assert.equal(samples.get('tegula_packets_total{tile="net0",direction="rx",path="af_xdp"}'), 3);
  assert.equal(samples.get('tegula_app_requests_total{app="echo",tile="echo"}'), 3);
  assert.equal(samples.get('tegula_mirror_entries{tile="netlink",table="interfaces"}'), 2);
  assert.ok(samples.get('tegula_net_frames_free{tile="net0"}')! > 0, "no counter: it goes down");
  assert.equal(samples.get('tegula_interface_xdp{interface="eth0"}'), 1);
  for (const direction of ["rx", "tx"]) {
    const port = `{app="echo",port="7",direction="${direction}"}`;
    const own = `{interface="eth0",direction="${direction}"}`;
    assert.equal(samples.get(`tegula_port_packets_total${port}`), 3);
    assert.equal(samples.get(`tegula_port_bytes_total${port}`), 3 * "hello".length);
    assert.equal(samples.get(`tegula_port_drops_total${port}`), 0);
    assert.equal(samples.get(`tegula_interface_packets_total${own}`), 3);
    assert.ok(samples.get(`tegula_interface_bytes_total${own}`)! >= 3 * (42 + "hello".length));
    assert.ok(samples.get(`tegula_batch_packets_sum{tile="net0",direction="${direction}"}`) === 3);
  }
  assert.equal(samples.get('tegula_latency_seconds_count{tile="net0"}'), 3);
  assert.ok(samples.get('tegula_latency_seconds_sum{tile="net0"}')! < 3, "answers took no second");
  assert.ok(samples.get('tegula_ring_fill_ratio{interface="eth0",queue="0",ring="fill"}')! > 0.5);
  assert.equal(samples.get('tegula_link_fill_ratio{app="echo",tile="echo",net="net0"}'), 0);
  assert.equal(samples.get("tegula_config_last_reload_successful"), 1);
  assert.ok(Date.now() / 1000 - samples.get(LOADED_AT)! < 60, "it was loaded just now");
  const [build] = [...samples.keys()].filter((name) => name.startsWith("tegula_build_info{"));
  const { deno, v8 } = Deno.version;
  assert.ok(build.includes(`version="${VERSION}"`) && build.includes(`deno="${deno}",v8="${v8}"`));
  for (const process of ["master", "appliance", "echo"]) {
    const value = (name: string) => samples.get(`process_${name}{process="${process}"}`)!;
    assert.ok(Math.abs(Date.now() / 1000 - value("start_time_seconds")) < 60, process);
    assert.ok(value("cpu_seconds_total") > 0 && value("threads") > 1, process);
    assert.ok(value("virtual_memory_bytes") > value("resident_memory_bytes"), process);
    assert.ok(value("resident_memory_bytes") > 2 ** 20, process);
    assert.ok(value("open_fds") > 3 && value("open_fds") < value("max_fds"), process);
  }
  for (const process of ["appliance", "netlink", "status", "echo"]) {
    assert.equal(samples.get(`tegula_restarts_total{process="${process}"}`), 0);
  }
  assert.match((await get(host, "/else"))[0], /^HTTP\/1.1 404 /);
});

/**
 * Opens 1,000 connections to the metrics with half a request each, and says so; then, once the other
 * side has closed them all, says that. Its argument is the address to ask.
 */
const CROWD = `import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
crowd = []
for i in range(1000):
    asker = socket.create_connection((sys.argv[1], 9464), timeout=60)
    asker.send(b"GET /metrics HTTP/1.1\\r\\nhost: ")
    crowd.append(asker)
print("holding", flush=True)
for asker in crowd:
    try:
        while asker.recv(4096): pass
    except ConnectionError: pass
print("all closed", flush=True)`;

labTest("metrics may be at an IPv6 address, and at localhost", async (lab) => {
  const { host } = await pair(lab);
  for (const [place, hostname] of [["[::1]", "::1"], ["localhost", "127.0.0.1"]]) {
    const appliance = await Appliance.start(host, [...ECHO, "--metrics", `${place}:9464`]);
    assert.match((await get(host, "/metrics", hostname))[0], /^HTTP\/1.1 200 /);
    assert.equal((await appliance.stop()).code, 0);
  }
});

labTest("metrics are read while a crowd holds connections with half a request", async (lab) => {
  const { host, client } = await pair(lab);
  await Appliance.start(host, [...ECHO, "--control", "none", "--metrics", `${HOST}:9464`]);
  const crowd = client.spawn(["python3", "-c", CROWD, HOST]);
  await crowd.stdout.find("holding");
  // From the address that the crowd comes from, and from another one.
  for (const namespace of [client, host]) {
    assert.match((await get(namespace, "/metrics"))[0], /^HTTP\/1.1 200 /);
  }
  await crowd.stdout.find("all closed");
  const [, text] = await get(host, "/metrics");
  const value = (name: string, label: string) =>
    Number(new RegExp(`^tegula_${name}{tile="status",${label}} (.*)$`, "m").exec(text)![1]);
  const [displaced, late] = ["displaced", "timed_out"].map((reason) =>
    value("connections_closed_total", `reason="${reason}"`)
  );
  assert.ok(displaced > 900 && late > 0, `${displaced} displaced, ${late} late`);
  assert.equal(displaced + late, 1000);
  assert.equal(value("connections", 'listener="metrics"'), 1, "only who asks");
});

/** Resets 20 connections, while nobody accepts them, and one that is half a request in. */
const RESET = `import socket, struct, sys
for i in range(20):
    asker = socket.create_connection((sys.argv[1], 9464))
    asker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if i % 2: asker.send(b"GET /metrics")
    asker.close()`;

labTest("connections that are reset before they are accepted do no harm", async (lab) => {
  const { host, client } = await pair(lab);
  const appliance = await Appliance.start(host, [...ECHO, "--metrics", `${HOST}:9464`]);
  const process = applianceOf(appliance.process.pid);
  Deno.kill(process, "SIGSTOP");
  await client.run(["python3", "-c", RESET, HOST]);
  Deno.kill(process, "SIGCONT");
  assert.match((await get(client, "/metrics"))[0], /^HTTP\/1.1 200 /);
  assert.equal(appliance.process.stderr.all.find((line) => line.startsWith("status:")), undefined);
});

labTest("of captures there are so many at most, and other requests go on", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  await Appliance.start(host, [...ECHO, "--control", control]);
  const capture = [...selfCommand(), "capture", "--control", control];
  const captures = Array.from({ length: 8 }, () => host.spawn(capture));
  for (const { stderr } of captures) await stderr.find("capturing");
  const [answer] = await converse(control, ['{"do":"capture"}']);
  assert.match(JSON.parse(answer).error, /^8 captures are running/);
  assert.equal(JSON.parse((await converse(control, ['{"do":"status"}']))[0]).sync, "synced");
  captures[0].kill("SIGINT");
  await eventually("room for another", async () => {
    const { stderr } = host.spawn(capture);
    return await stderr.find("capturing").catch(() => undefined);
  });
});

/**
 * Connects to a process, whose id and socket are its arguments, while that can get no descriptor:
 * it cannot accept, which it notices. No longer than that takes, and without being held up by others
 * that want to run: without descriptors no tile is started again, either.
 */
const STARVE = `import os, resource, socket, sys, time
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except OSError:
    pass
pid, files = int(sys.argv[1]), resource.RLIMIT_NOFILE
# Its limits are its user's to change, or take a capability that root does not have everywhere.
owner = os.stat(f"/proc/{pid}")
os.setresgid(owner.st_gid, -1, -1)
os.setresuid(owner.st_uid, -1, -1)
asker = socket.socket(socket.AF_UNIX)
usual = resource.prlimit(pid, files)
resource.prlimit(pid, files, (16, usual[1]))
asker.connect(sys.argv[2])
time.sleep(0.02)
resource.prlimit(pid, files, usual)`;

labTest("a status tile that fails is started again alone, traffic going on", async (lab) => {
  const { host, asker } = await pair(lab);
  const control = socketPath();
  const appliance = await Appliance.start(host, [
    ...[...ECHO, "--control", control, "--metrics", `${HOST}:9464`],
  ]);
  await askUntilAnswered(asker);
  const before = await quietCounters(appliance);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 1000 });
  await answeredAtLeast(asker, 200);
  await eventually("the end of the tile", async () => {
    await host.run(["python3", "-c", STARVE, `${applianceOf(appliance.process.pid)}`, control]);
    // Not twice: who starts it again needs descriptors too.
    return await appliance.process.stderr.find("status: ended", { timeoutMs: 10_000 })
      .catch(() => undefined);
  });
  const [status] = await eventually("an answer", () => {
    return converse(control, ['{"do":"status"}']).catch(() => undefined);
  });
  assert.equal(JSON.parse(status).sync, "synced");
  assert.match((await get(host, "/metrics"))[0], /^HTTP\/1.1 200 /);
  await assertAllAnswered(asker, { appliance, before });
});

labTest(
  "routes by the hundred thousand are shown live, and no packet is lost meanwhile",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const control = socketPath();
    const appliance = await Appliance.start(host, [...ECHO, "--control", control]);
    const routes = Array.from({ length: 100_000 }, (_, i) => {
      return `route add 10.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32 via 198.18.0.2`;
    });
    await host.batch(routes);
    await eventually("all routes", async () => {
      return (await appliance.counters()).get("routes")! > routes.length ? true : undefined;
    });
    await askUntilAnswered(asker);
    const before = await quietCounters(appliance);
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 1000 });
    await answeredAtLeast(asker, 100);
    const lines = (await tegula(host, "show", "routes", "--control", control)).trimEnd().split(
      "\n",
    );
    assert.ok(lines.length > routes.length, `${lines.length} lines`);
    assert.equal(new Set(lines).size, lines.length, "none comes twice");
    await assertAllAnswered(asker, { appliance, before });
  },
);

/** Its counters once all that it has received is answered: what was asked last may be late. */
function quietCounters(appliance: Appliance): Promise<Counters> {
  return eventually("all answers to be sent", async () => {
    const now = await appliance.counters();
    return now.get("tx_frames") === now.get("rx_frames") ? now : undefined;
  });
}

/** By Tegula's own account, all that was sent was received and answered: the client may be late. */
async function assertAllAnswered(
  asker: Client,
  { appliance, before }: { appliance: Appliance; before: Counters },
): Promise<void> {
  const { sent } = await asker.stop();
  const after = await quietCounters(appliance);
  // What was asked until there was an answer may still have been on its way at `before`.
  const received = growth(before, after, "rx_frames");
  assert.ok(received >= sent, `${received} of ${sent} received`);
}

labTest("audit has the running one compare itself with the kernel", async (lab) => {
  const { host } = await pair(lab);
  const control = socketPath();
  const appliance = await Appliance.start(host, [...ECHO, "--control", control]);
  await host.batch(Array.from({ length: 5000 }, (_, i) => {
    return `route add 10.0.${i >> 8}.${i & 255}/32 via 198.18.0.2`;
  }));
  const text = await tegula(host, "audit", "--control", control);
  assert.match(text, /^interfaces 2 entries, 0 divergent\nroutes +50\d\d entries, 0 divergent\n/);
  const report = JSON.parse(await tegula(host, "audit", "-j", "--control", control));
  assert.equal(report.divergent, 0);
  assert.equal((await appliance.counters()).get("audits"), 2);
});

labTest("reload answers when it is done, with status 2 where nothing was changed", async (lab) => {
  const { host, asker } = await pair(lab);
  const control = socketPath();
  const module = temporaryFile('export const answer = () => "one";', ".ts");
  await Appliance.start(host, [
    ...["--interface", "eth0", "--listen", `7=${module}`, "--control", control],
    ...["--metrics", `${HOST}:9464`],
  ]);
  const loading = async () => {
    const [, text] = await get(host, "/metrics");
    const value = (name: string) =>
      Number(new RegExp(`^tegula_config_${name} (.*)$`, "m").exec(text)![1]);
    return {
      isGood: value("last_reload_successful"),
      at: value("last_reload_success_timestamp_seconds"),
      hash: value("hash"),
    };
  };
  const first = await loading();
  assert.equal(first.isGood, 1);
  assert.equal((await ask(asker)).text, "one");
  Deno.writeTextFileSync(module, 'export const answer = () => "two";');
  assert.match(await tegula(host, "reload", "--control", control), /^reloaded/);
  assert.equal((await ask(asker)).text, "two");
  const second = await loading();
  assert.ok(second.at > first.at);
  assert.deepEqual(second, { isGood: 1, at: second.at, hash: first.hash });
  Deno.writeTextFileSync(module, "throw new Error('not today');");
  const reload = [...selfCommand(), "reload", "--control", control];
  const { code, said } = await refusal(host.spawn(reload));
  assert.equal(code, 2);
  assert.match(said, /not today/);
  assert.equal((await ask(asker)).text, "two");
  assert.deepEqual(await loading(), { ...second, isGood: 0 });
});

/** Reads the metrics over and over until its input ends; says how often, and fails where it cannot. */
const SCRAPE = `import select, socket, sys
count = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    asker = socket.create_connection((sys.argv[1], 9464), timeout=20)
    asker.send(b"GET /metrics HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
    text = b""
    while part := asker.recv(65536): text += part
    assert text.startswith(b"HTTP/1.1 200 ") and b'tegula_sync_state{state="synced"} 1' in text, text
    count += 1
    if count == 1: print("reading", flush=True)
print(count, flush=True)`;

labTest("counters go on through a reload and the appliance's death", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const control = socketPath();
  const appliance = await Appliance.start(host, [
    ...[...ECHO, "--control", control, "--metrics", `${HOST}:9464`],
  ]);
  const requests = async () => {
    const [, text] = await get(host, "/metrics");
    const packets = (way: string) => `packets_total{tile="net0",direction="${way}",path="af_xdp"}`;
    return [
      ...[packets("rx"), packets("tx"), "app_requests_total{.*}", "app_answers_total{.*}"],
      ...["rx", "tx"].map((way) => `port_packets_total{app="echo",port="7",direction="${way}"}`),
      ...["rx", "tx"].map((way) => `interface_packets_total{interface="eth0",direction="${way}"}`),
      'latency_seconds_count{tile="net0"}',
    ].map((name) => Number(new RegExp(`^tegula_${name} (.*)$`, "m").exec(text)?.[1]));
  };
  const after = (count: number) =>
    eventually(`${count} of each`, async () => {
      return (await requests()).every((each) => each === count) ? true : undefined;
    });
  for (let i = 0; i < 3; i++) assert.equal((await ask(asker)).text, "hello");
  await after(3);
  const scraper = client.spawn(["python3", "-c", SCRAPE, HOST], { stdin: "piped" });
  await scraper.stdout.find("reading");
  assert.match(await tegula(host, "reload", "--control", control), /the rings were taken over/);
  await after(3);
  assert.equal((await ask(asker)).text, "hello");
  await after(4);
  await scraper.write("enough").catch(() => {});
  assert.equal((await scraper.ended()).code, 0, scraper.stderr.all.join("\n"));
  const killed = applianceOf(appliance.process.pid);
  Deno.kill(killed, "SIGKILL");
  // Whoever asks now is answered by the next one.
  assert.equal((await ask(asker)).text, "hello");
  await after(5);
  assert.equal(JSON.parse((await converse(control, ['{"do":"status"}']))[0]).sync, "synced");
  assert.notEqual(applianceOf(appliance.process.pid), killed);
  const restarts = async (process: string) => {
    const [, text] = await get(host, "/metrics");
    const line = new RegExp(`^tegula_restarts_total{process="${process}"} (.*)$`, "m").exec(text);
    return Number(line![1]);
  };
  assert.equal(await restarts("appliance"), 1);
  assert.equal(await restarts("echo"), 0);
  const app = processesOf(appliance.process.pid).find(({ role }) => role === "app")!;
  Deno.kill(app.pid, "SIGKILL");
  await eventually("a restart of the app", async () => {
    return await restarts("echo") === 1 ? true : undefined;
  });
});
