// SPDX-License-Identifier: Apache-2.0
/** Which regions there are, and whose they are. */

import assert from "node:assert/strict";
import { NO_GRANTS } from "../../no_grants.ts";
import { planTiles } from "../../../tiles/runtime/plan.ts";
import { linkShape, regionsOf } from "../../../tiles/runtime/wiring.ts";

/** What an appliance with these apps is told. */
function setup(...names: string[]) {
  const apps = names.map((name, i) => {
    const [app, inline] = [name.split(/[.@]/)[0], name.endsWith("@inline")];
    return {
      ...{ module: "file:///app.ts", options: {}, sendTo: [], grants: NO_GRANTS },
      ...{ app, name: name.split("@")[0], inline, ports: [[i, i] as const] },
      ...{ memoryMib: 256, depth: 1024 },
    };
  });
  return {
    ...{ apps, attached: [], interfaces: [], sockets: [], slots: {}, trustChecksums: false },
    hasPredecessor: false,
    build: { version: "0", commit: "" },
    plan: planTiles({ queues: [2], cores: 3, apps }),
    listens: { control: true, metrics: false },
  };
}

Deno.test("payloads stay in the UMEM where all in it is one app's, and only there", () => {
  const inPlace = (...names: string[]) => {
    const { apps } = setup(...names);
    return linkShape(apps[0], apps).requestBytes === undefined;
  };
  assert.ok(inPlace("echo"));
  assert.ok(inPlace("echo.1", "echo.2"), "instances of one app may read each other's");
  assert.ok(!inPlace("echo", "dns"));
  assert.ok(!inPlace("echo.1", "echo.2", "dns"));
  assert.ok(!inPlace("echo", "dns@inline"));
  assert.ok(!inPlace("echo", "echo@inline"), "an app in a net tile is another");
});

Deno.test("each region has one name and one writer", () => {
  const regions = regionsOf(setup("echo", "dns", "time@inline"));
  assert.equal(new Set(regions.map(({ name }) => name)).size, regions.length);
  const writers = new Map(regions.map(({ name, writer }) => [name, writer]));
  assert.deepEqual(writers.get("link echo to net1"), { app: "echo" });
  assert.deepEqual(writers.get("metrics dns"), { app: "dns" });
  for (const name of ["link net1 to echo", "requests echo net1", "umem net0", "tile time@net0"]) {
    assert.equal(writers.get(name), "appliance", name);
  }
});

Deno.test("the slow side of an app has a region for metrics of its own", () => {
  const { apps, ...rest } = setup("echo", "dns.1", "dns.2");
  const beside = { module: "file:///beside.ts", tcp: [] };
  const besides = apps.map((app) => ({ ...app, ...(app.app === "dns" && { beside }) }));
  const added = regionsOf({ ...rest, apps: besides })
    .filter(({ name }) => name.endsWith(" beside"));
  assert.deepEqual(added.map(({ name, writer }) => [name, writer]), [
    ["metrics dns.1 beside", { app: "dns.1" }],
    ["metrics dns.2 beside", { app: "dns.2" }],
  ]);
});

Deno.test("what an app, the kernel or a peer knows of outlasts an appliance, and nothing else", () => {
  const fresh = (name: string) =>
    regionsOf(setup("echo")).find((each) => each.name === name)!.fresh;
  for (
    const name of ["tile net0", "umem net0", "frames net0", "link net0 to echo", "peers echo net0"]
  ) {
    assert.equal(fresh(name), false, name);
  }
  for (const name of ["netbase", "control", "solicit net0", "routes net0", "tile netlink"]) {
    assert.equal(fresh(name), true, name);
  }
});
