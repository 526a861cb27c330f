// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Dispatch } from "../../../tiles/net/rx.ts";
import { NET } from "../../../tiles/runtime/counters.ts";

const APPS = [{ ports: [7, 53] }, { ports: [9] }, { ports: [53] }, { ports: [53] }];
const SOCKETS = [{ fd: 10, port: 7, receive: true }, { fd: 11, port: 53, receive: false }];

Deno.test("a datagram goes to the app that serves its port, and to none where none does", () => {
  const dispatch = new Dispatch(APPS, SOCKETS);
  assert.equal(dispatch.app(1, (1234 << 16) | 7), 0);
  assert.equal(dispatch.app(1, (1234 << 16) | 9), 1);
  assert.equal(dispatch.app(1, (1234 << 16) | 8), -NET.index.rx_drop_no_app);
  assert.equal(dispatch.app(1, 1234 << 16), -NET.index.rx_drop_no_app);
});

Deno.test("apps on one port share it by flow, evenly, and a flow keeps to one", () => {
  const dispatch = new Dispatch(APPS, SOCKETS);
  // Many peers, and many ports of one peer.
  const flows: [string, (i: number) => [source: number, port: number]][] = [
    ["peers", (i) => [(0xc6120000 + i) | 0, 1024]],
    ["ports", (i) => [0xc6120002 | 0, 1024 + i]],
  ];
  for (const [what, flow] of flows) {
    const counts = new Map<number, number>();
    for (let i = 0; i < 30_000; i++) {
      const [source, port] = flow(i);
      const ports = (port << 16) | 53;
      const app = dispatch.app(source, ports);
      assert.equal(dispatch.app(source, ports), app);
      counts.set(app, (counts.get(app) ?? 0) + 1);
    }
    assert.deepEqual([...counts.keys()].toSorted(), [0, 2, 3], what);
    for (const count of counts.values()) {
      assert.ok(Math.abs(count - 10_000) < 500, `${what}: ${count}`);
    }
  }
});

Deno.test("an app may send from the ports that it serves and from no others", () => {
  const dispatch = new Dispatch(APPS, SOCKETS);
  const served = APPS.map((_, app) =>
    [7, 9, 53, 0, 80].filter((port) => dispatch.serves(app, port))
  );
  assert.deepEqual(served, [[7, 53], [9], [53], [53]]);
});

Deno.test("the kernel socket of a port is known, and that there is none", () => {
  const dispatch = new Dispatch(APPS, SOCKETS);
  assert.deepEqual([7, 53, 9, 80].map((port) => dispatch.fd(port)), [10, 11, -1, -1]);
});
