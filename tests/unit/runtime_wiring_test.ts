/** Which memory the wiring gives to whom. */

import assert from "node:assert/strict";
import type { Host } from "../../ffi/host.ts";
import { heapView } from "../../ffi/view.ts";
import { NO_GRANTS } from "../../tiles/runtime/permissions.ts";
import { planTiles } from "../../tiles/runtime/plan.ts";
import { Wiring } from "../../tiles/runtime/wiring.ts";

/** For each app tile the UMEMs that it is given, and in which region it is to read payloads. */
function given(...names: string[]): { umems: string[]; payloads: string[] }[] {
  const buffers = new Map<unknown, string>();
  const regions = {
    create(name: string, bytes: number) {
      const view = heapView(bytes);
      buffers.set(view.buffer, name);
      return { writer: view, reader: view };
    },
  };
  let eventfd = 100;
  const apps = names.map((name, i) => {
    const [app, inline] = [name.split(/[.@]/)[0], name.endsWith("@inline")];
    const told = { module: "file:///app.ts", options: {}, sendTo: [], grants: NO_GRANTS };
    return { ...told, app, name: name.split("@")[0], inline, ports: [[i, i] as const] };
  });
  const wiring = new Wiring({
    regions,
    host: { eventfd: () => eventfd++ } as unknown as Host,
    plan: planTiles({ queues: [2], cores: 3, apps: apps.length }),
    apps,
    attachments: [],
    trustChecksums: false,
    sockets: [],
    listeners: { control: null, metrics: null },
  });
  return wiring.apps.map((_, a) => {
    const all = new Set<unknown>();
    const walk = (value: unknown): void => {
      if (value === null || typeof value !== "object") return;
      all.add(value);
      Object.values(value).forEach(walk);
    };
    const setup = wiring.appSetup(a);
    walk(setup);
    const umems = [...all].flatMap((value) => buffers.get(value) ?? [])
      .filter((name) => name.startsWith("umem"));
    return { umems, payloads: setup.nets.map(({ payloads }) => buffers.get(payloads.buffer)!) };
  });
}

Deno.test("an app that is alone is given each net tile's UMEM, and so are its instances", () => {
  const umems = ["umem net0", "umem net1"];
  assert.deepEqual(given("echo"), [{ umems, payloads: umems }]);
  assert.deepEqual(given("echo.1", "echo.2"), [
    { umems, payloads: umems },
    { umems, payloads: umems },
  ]);
});

Deno.test("where apps are several no app is given a UMEM, but memory of its own by each net tile", () => {
  const own = (app: string) => ({
    umems: [],
    payloads: [`link net0 to ${app}`, `link net1 to ${app}`],
  });
  assert.deepEqual(given("echo", "dns"), [own("echo"), own("dns")]);
  assert.deepEqual(given("echo.1", "echo.2", "dns"), ["echo.1", "echo.2", "dns"].map(own));
  assert.deepEqual(given("echo", "dns@inline"), [own("echo")]);
  assert.deepEqual(given("echo", "echo@inline"), [own("echo")], "an app in a net tile is another");
});
