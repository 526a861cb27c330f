// SPDX-License-Identifier: Apache-2.0
/**
 * An interface where the dispatcher of libxdp runs other programs, as xdp-tools attach them. It takes
 * a kernel that loads programs in place of functions (BPF_PROG_TYPE_EXT).
 */

import { strict as assert } from "node:assert";
import type { Lab } from "../../demo/lab.ts";
import {
  answered,
  Appliance,
  ends,
  eventually,
  labTest,
  type Namespace,
  plug,
  refusal,
  serve,
  xdpProgram,
} from "./machine.ts";

const [TARGET, SOURCE] = ["198.18.0.1", "198.18.0.2"];
const DISPATCHED = ["--dispatcher", "--provider", "xdp"];

/** Counts frames. A dispatcher wants types, and its context's by name. */
const OTHER_PROGRAM = `
struct xdp_md { unsigned data; };
unsigned long long seen;
__attribute__((section("xdp"), used)) int other_program(struct xdp_md *context)
{
	__sync_fetch_and_add(&seen, 1);
	return 2;
}
char _license[] __attribute__((section("license"), used)) = "GPL";
`;

/** An echo service on the kernel's socket. */
const KERNEL_ECHO = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 7))
print("serving", flush=True)
while True: s.sendto(*s.recvfrom(65536))
`;

function run(command: readonly string[]): string {
  const [program, ...args] = command;
  const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** `xdp-loader` in a namespace, but with the machine's /sys, where its pins are to stay. */
function loader({ name }: Namespace, args: string): string {
  return run(["nsenter", `--net=/run/netns/${name}`, "xdp-loader", ...args.split(" ")]);
}

/**
 * What starts programs in a namespace with the machine's /sys too, whose pins they are to see, and with
 * no more of root than docs/operating/configure.md says that it takes.
 */
function withPins(host: Namespace): Pick<Namespace, "spawn"> {
  const kept = ["net_admin", "net_raw", "bpf", "net_bind_service", "sys_admin"];
  const wrapped = [
    ...["nsenter", `--mount=/proc/${Deno.pid}/ns/mnt`, `--wdns=${Deno.cwd()}`],
    ...["prlimit", "--memlock=unlimited:unlimited"],
    ...["setpriv", `--bounding-set=-all${kept.map((name) => `,+${name}`).join("")}`],
  ];
  return { spawn: (command, options) => host.spawn([...wrapped, ...command], options) };
}

/** Two ends of a wire, on whose near one a dispatcher runs another program. */
async function shared(lab: Lab): Promise<{ host: Namespace; client: Namespace }> {
  const { host, client } = await ends(lab);
  await lab.join(
    { namespace: host, name: "eth0", addresses: [`${TARGET}/24`] },
    { namespace: client, name: "eth0", addresses: [`${SOURCE}/24`] },
  );
  loadOther(host, "eth0");
  assert.equal((await xdpProgram(host))?.name, "xdp_dispatcher");
  return { host, client };
}

function loadOther(host: Namespace, name: string): void {
  const object = `${Deno.makeTempDirSync()}/other.o`;
  Deno.writeTextFileSync(`${object}.c`, OTHER_PROGRAM);
  run(["clang", "-g", "-O2", "-target", "bpf", "-c", `${object}.c`, "-o", object]);
  loader(host, `load -m native ${name} ${object}`);
}

/** Names and ids of the programs that the dispatcher of an interface runs, in its order. */
function members(host: Namespace, device = "eth0"): { name: string; id: number }[] {
  const lines = loader(host, `status ${device}`).matchAll(/=> +\d+ +(\w+) +(\d+) /g);
  return Array.from(lines, ([, name, id]) => ({ name, id: Number(id) }));
}

function names(host: Namespace, device = "eth0"): string[] {
  return members(host, device).map(({ name }) => name);
}

/** How many frames the other program has seen. */
function seen(): number {
  const [{ formatted }] = JSON.parse(run("bpftool -j map dump name other.bss".split(" ")));
  return formatted.value[".bss"][0].seen;
}

/** How many of three requests are answered, which must have come by AF_XDP, past the other program. */
async function assertServed(appliance: Appliance, client: Namespace): Promise<void> {
  const [before, seenBefore] = [(await appliance.counters()).get("rx_frames")!, seen()];
  assert.equal(await answered(client, { source: SOURCE, target: TARGET }), 3);
  assert.ok(seen() >= seenBefore + 3, "the other program does not run");
  await eventually("frames that came by AF_XDP", async () => {
    const { rx_frames: frames } = Object.fromEntries(await appliance.counters());
    return frames === before + 3 ? true : undefined;
  });
}

labTest(
  "an interface of libxdp's dispatcher is refused by name and left in peace, status 6",
  async (lab) => {
    const { host } = await shared(lab);
    const { id } = (await xdpProgram(host))!;

    const start = Appliance.launch(host, ["--interface", "eth0", "--listen", "7=echo"]);
    const { code, said } = await refusal(start.process);
    assert.equal(code, 6);
    assert.match(said, new RegExp(`eth0.*xdp_dispatcher, id ${id}\\b.*--provider socket`));

    assert.equal((await xdpProgram(host))?.id, id);
    assert.deepEqual(names(host), ["other_program"]);
    loader(host, "unload eth0 --all");
    assert.equal(await xdpProgram(host), undefined);
  },
);

labTest(
  "with --dispatcher it runs after the other program, which is as it was once it has stopped",
  async (lab) => {
    const { host, client } = await shared(lab);
    const before = members(host);
    const appliance = await serve(withPins(host), ["eth0"], DISPATCHED);
    assert.match(await appliance.mode("eth0"), /xdp native copy/);
    assert.deepEqual(names(host), ["other_program", "tegula"]);
    await assertServed(appliance, client);

    assert.equal((await appliance.stop()).code, 0);
    assert.deepEqual(members(host), before);
    const count = seen();
    assert.equal(await answered(client, { source: SOURCE, target: TARGET, timeoutMs: 300 }), 0);
    assert.ok(seen() > count);
    loader(host, "unload eth0 --all");
  },
);

labTest(
  "killed, it leaves a program that passes everything, which the next start replaces",
  async (lab) => {
    const { host, client } = await shared(lab);
    const killed = await serve(withPins(host), ["eth0"], DISPATCHED);
    await killed.stop("SIGKILL");
    const [, left] = members(host);
    assert.equal(left.name, "tegula");
    const kernel = host.spawn(["/usr/bin/python3", "-c", KERNEL_ECHO]);
    await kernel.stdout.find("serving");
    assert.equal(await answered(client, { source: SOURCE, target: TARGET }), 3);
    kernel.kill("SIGKILL");
    await kernel.ended();

    const appliance = await serve(withPins(host), ["eth0"], DISPATCHED);
    const [other, own] = members(host);
    assert.deepEqual(names(host), ["other_program", "tegula"]);
    assert.notEqual(own.id, left.id);
    await assertServed(appliance, client);

    const args = ["--interface", "eth0", "--listen", "9=discard", ...DISPATCHED];
    const second = await refusal(Appliance.launch(withPins(host), args).process);
    assert.equal(second.code, 6);
    assert.match(second.said, /sockets on eth0, perhaps another tegula/);
    assert.deepEqual(members(host), [other, own], "one that lives is left in peace");
    await assertServed(appliance, client);

    loader(host, `unload eth0 --id ${other.id}`);
    assert.equal(await answered(client, { source: SOURCE, target: TARGET }), 3);
    assert.equal((await appliance.stop()).code, 0);
    assert.equal(await xdpProgram(host), undefined, "the dispatcher goes with the last");
    const pins = Array.from(Deno.readDirSync("/sys/fs/bpf/xdp"), ({ name }) => name);
    assert.deepEqual(pins.filter((name) => name.startsWith("dispatch")), []);
  },
);

labTest("where there is no dispatcher it brings one, which another program joins", async (lab) => {
  const { host, client } = await ends(lab);
  await plug(host, "virtio0", TARGET);
  await plug(client, "virtio1", SOURCE);
  const appliance = await serve(withPins(host), ["virtio0"], DISPATCHED);
  console.log(await appliance.process.stderr.find("virtio0: "));
  assert.deepEqual(names(host, "virtio0"), ["tegula"]);
  assert.equal(await answered(client, { source: SOURCE, target: TARGET }), 3);

  loadOther(host, "virtio0");
  assert.deepEqual(names(host, "virtio0"), ["other_program", "tegula"]);
  await assertServed(appliance, client);
  assert.equal((await appliance.stop()).code, 0);
  assert.deepEqual(names(host, "virtio0"), ["other_program"]);
  loader(host, "unload virtio0 --all");
});
