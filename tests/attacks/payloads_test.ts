// SPDX-License-Identifier: Apache-2.0
/**
 * An app that searches all memory it is given while others' datagrams go by, and finds none of them.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { configured } from "../netns/config_file.ts";
import { Appliance, ask, Client, HOST, introduce, type Lab, labTest, pair } from "../netns/lab.ts";

const SPY = fileURLToPath(new URL("../fixtures/app/spy.ts", import.meta.url));
const CONTRACT = fileURLToPath(new URL("../../tiles/app/contract.ts", import.meta.url));
const SECRET = "for the other app's eyes alone";
const PORT = 4000;
/** Bytes of a payload; the last is one that a frame does not hold. */
const SIZES = [SECRET.length, 500, 1400, 1472, 30_000];
const ROUNDS = 120;

/** An appliance with the spy, and what serves the other ports. */
async function withSpy(lab: Lab, listen: string) {
  const namespaces = await pair(lab);
  await introduce(namespaces);
  const appliance = await Appliance.start(
    namespaces.host,
    configured([
      `listen = ["${PORT}=spy"${listen}]`,
      `[apps.spy]\nmodule = "${SPY}"\nread = ["${CONTRACT}"]`,
      `options = { secret = "${SECRET}" }`,
    ].join("\n")),
  );
  // One by AF_XDP, one by the kernel's sockets: both look at the same host.
  const ways = [
    { asker: namespaces.asker, source: "198.18.0.2", target: HOST },
    { asker: new Client(namespaces.host), source: "127.0.0.1", target: "127.0.0.1" },
  ];
  /** Asks the spy in how many places the secret is. */
  async function found(payload = "where?"): Promise<number> {
    let sum = 0;
    for (const { asker, source, target } of ways) {
      const { text } = await ask(asker, { source, target, port: PORT, payload });
      const [searched, places] = text!.split(" ").map(Number);
      assert.ok(searched > 1 << 20, `it searched ${searched} bytes`);
      sum += places;
    }
    return sum;
  }
  return { appliance, ways, found };
}

for (const others of ["echo", "echo@inline"]) {
  labTest(`an app finds no datagram of ${others} beside it in its memory`, async (lab) => {
    const { appliance, ways, found } = await withSpy(lab, `, "7=${others}"`);
    for (let i = 0; i < ROUNDS; i++) {
      const payload = SECRET.padEnd(SIZES[i % SIZES.length], ".");
      for (const { asker, source, target } of ways) {
        assert.equal((await ask(asker, { source, target, payload })).text, payload);
      }
      assert.equal(await found(), 0, `after ${i + 1} rounds`);
    }
    const counters = await appliance.counters();
    assert.ok(counters.get("rx_frames")! >= ROUNDS && counters.get("rx_socket")! >= ROUNDS);
    // What it is sent itself it does find.
    assert.ok(await found(SECRET) > 0);
  });
}
