// SPDX-License-Identifier: Apache-2.0
/**
 * What is allocated for a datagram: nothing, by net tiles, by the fast form of apps, and by the library. Each case runs
 * in a process of its own, with the options for V8 that tiles run with.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import packet from "dns-packet";
import type { PathShape } from "../../../bench/path_tiles.ts";
import { V8_FLAGS } from "../../../ffi/process.ts";
import { APPS } from "../../fixtures/app/thrifty.ts";

const RUN = fileURLToPath(new URL("./allocation_run.ts", import.meta.url));
/** MiB: all that a run allocates even if it allocates an object for each datagram. */
const NEW_SPACE = 512;
/** The least that V8 allocates is a number. Of what is allocated, less than that comes to each burst of 64. */
const NUMBER_BYTES = 16;
const NOTHING = NUMBER_BYTES / 64;

const HOST: PathShape = { inline: false, peers: 64, farPeers: 0, ports: 1, routes: 10 };
/** An app that allocates on purpose. */
const WASTEFUL = "keeps an object";

function thrifty(does: string): PathShape["app"] {
  const module = import.meta.resolve("../../fixtures/app/thrifty.ts");
  return { module, options: { does }, mostPerSecond: 1e9 };
}

/** Bytes allocated for each datagram. */
async function allocatedBy(shape: PathShape): Promise<number> {
  const space = ["min", "max"].map((each) => `--${each}-semi-space-size=${NEW_SPACE}`);
  const flags = [V8_FLAGS, ...space].join(",");
  const args = ["run", "--allow-all", "--no-check", "--unstable-worker-options", flags, RUN];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args, JSON.stringify(shape), `${NOTHING}`],
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return Number(new TextDecoder().decode(stdout));
}

/** Measures and prints each case; none may allocate. */
async function expectNothing(cases: Readonly<Record<string, PathShape>>): Promise<void> {
  const wasteful: string[] = [];
  for (const [name, shape] of Object.entries(cases)) {
    const bytes = await allocatedBy(shape);
    console.log(`${name}: ${bytes} bytes for a datagram`);
    if (!(Math.abs(bytes) < NOTHING)) wasteful.push(`${name}: ${bytes} bytes`);
  }
  assert.deepEqual(wasteful, []);
}

/** The cases of `APPS` that `pattern` matches. */
function casesOf(shape: PathShape, pattern = /./): Record<string, PathShape> {
  const names = Object.keys(APPS).filter((name) => name !== WASTEFUL && pattern.test(name));
  return Object.fromEntries(names.map((name) => [name, { ...shape, app: thrifty(name) }]));
}

Deno.test("an object for each datagram is noticed", async () => {
  const bytes = await allocatedBy({ ...HOST, app: thrifty(WASTEFUL) });
  assert.ok(bytes > NUMBER_BYTES, `${bytes} bytes`);
});

Deno.test("a datagram allocates nothing in a net tile, in an app's process and in the library", () =>
  expectNothing(casesOf(HOST)));

Deno.test("a datagram that is copied to one of several apps allocates nothing", () =>
  expectNothing(casesOf({ ...HOST, apart: true }, /^re/)));

Deno.test("a datagram allocates nothing in an inline app", () =>
  expectNothing(casesOf({ ...HOST, inline: true }, /^(re|sends|asks|counts)/)));

Deno.test("a datagram that balance forwards, to a backend or from one, allocates nothing", async () => {
  // The client asks at port 8, and its backend answers to port 7.
  const [ports, ownPorts] = [[8], [7, 9]];
  const app = {
    module: import.meta.resolve("../../../apps/balance.ts"),
    ...{ ports, ownPorts, served: [...ports, ...ownPorts] },
    options: { backends: ["198.19.0.0:10000"], ratelimit: 1e7, burst: 1e7 },
  };
  const sendTo = [{ address: 0, mask: 0 }];
  const shape = { ...HOST, peers: 2, ports: 2, app, sendTo };
  await expectNothing({ "a process": shape, inline: { ...shape, inline: true } });
});

Deno.test("a query that dns answers allocates nothing", async () => {
  const app = {
    module: import.meta.resolve("../../../apps/dns/dns.ts"),
    options: {
      zone: fileURLToPath(new URL("../../fixtures/app/example.zone", import.meta.url)),
      rrl_ratelimit: 1e9,
    },
  };
  const asked = (name: string): PathShape => {
    const additionals = [{ type: "OPT", name: ".", udpPayloadSize: 1232 }];
    const questions = [{ type: "A", name: `${name}.example.org` }];
    return { ...HOST, app, payload: [...packet.encode({ type: "query", questions, additionals })] };
  };
  await expectNothing({
    "two addresses": asked("web"),
    "an alias": asked("www"),
    "no such name": asked("who"),
    "a wildcard, inline": { ...asked("some.wild"), inline: true },
  });
});
