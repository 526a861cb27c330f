/**
 * An interface where the dispatcher of libxdp runs other programs, as xdp-tools attach them. It takes
 * a kernel that loads programs in place of functions (BPF_PROG_TYPE_EXT).
 */

import { strict as assert } from "node:assert";
import { Appliance, ends, labTest, type Namespace, refusal, xdpProgram } from "./machine.ts";

/** The smallest that a dispatcher takes: it wants types, and its context's by name. */
const OTHER_PROGRAM = `
struct xdp_md { unsigned data; };
__attribute__((section("xdp"), used)) int other_program(struct xdp_md *context) { return 2; }
char _license[] __attribute__((section("license"), used)) = "GPL";
`;

/** `xdp-loader` in a namespace, but with the machine's /sys, where its pins are to stay. */
function loader({ name }: Namespace, args: string): string {
  const command = [`--net=/run/netns/${name}`, "xdp-loader", ...args.split(" ")];
  const { success, stdout, stderr } = new Deno.Command("nsenter", { args: command }).outputSync();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

labTest(
  "an interface of libxdp's dispatcher is refused by name and left in peace, status 6",
  async (lab) => {
    const { host, client } = await ends(lab);
    await lab.join(
      { namespace: host, name: "eth0", addresses: ["198.18.0.1/24"] },
      { namespace: client, name: "eth0" },
    );
    const object = Deno.makeTempFileSync({ suffix: ".o" });
    Deno.writeTextFileSync(`${object}.c`, OTHER_PROGRAM);
    await host.run(["clang", "-g", "-O2", "-target", "bpf", "-c", `${object}.c`, "-o", object]);
    loader(host, `load -m native eth0 ${object}`);
    const { id, name } = (await xdpProgram(host))!;
    assert.equal(name, "xdp_dispatcher");

    const start = Appliance.launch(host, ["--interface", "eth0", "--listen", "7=echo"]);
    const { code, said } = await refusal(start.process);
    assert.equal(code, 6);
    assert.match(said, new RegExp(`eth0.*xdp_dispatcher, id ${id}\\b.*--provider socket`));

    assert.equal((await xdpProgram(host))?.id, id);
    assert.match(loader(host, "status eth0"), /=> .*other_program/);
    loader(host, "unload eth0 --all");
    assert.equal(await xdpProgram(host), undefined);
  },
);
