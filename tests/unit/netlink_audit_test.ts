import assert from "node:assert/strict";
import { Audit, type AuditedMirror, type AuditReport } from "../../tiles/netlink/audit.ts";
import type { Audited } from "../../tiles/netlink/audited.ts";
import type { MessageCursor } from "../../tiles/netlink/codec.ts";
import { NETLINK } from "../../tiles/runtime/counters.ts";

Deno.test("an audit that cannot ask the kernel leaves the dumps of others alone", () => {
  const done: string[] = [];
  let refused = 0;
  const dumper = {
    busy: false,
    dump: () => ++refused > 1,
    abandon: () => done.push("abandoned"),
  };
  const mirror = { current: true, dumper, audited: [], resync() {}, watchEvents() {} };
  const counters = new Float64Array(Object.keys(NETLINK.index).length);
  const audit = new Audit(mirror as unknown as AuditedMirror, { counters, now: 0, log() {} });
  audit.request(() => {});
  audit.turn(0);
  assert.equal(refused, 1);
  // By now the synchroniser has begun a dump.
  dumper.busy = true;
  audit.turn(1);
  assert.deepEqual(done, []);
  dumper.busy = false;
  audit.turn(100);
  assert.equal(refused, 2, "it begins anew");
});

Deno.test("an audit that finds more differences than it counts comes to an end", () => {
  let dumps = 0;
  let resyncs = 0;
  const routes: Audited = {
    ...{ table: "routes", types: [], dumps: ["routes"], entries: () => 0, begin() {}, read() {} },
    end(differs) {
      for (let i = 0; i < 100_000; i++) differs(`route ${i}`);
    },
  };
  let endPass = (_end: "done") => {};
  const dumper = {
    busy: false,
    dump(_kinds: unknown, { done }: { done(end: "done"): void }) {
      dumps++;
      endPass = done;
      return true;
    },
    abandon: () => assert.fail("nothing is to be given up"),
  };
  const mirror = {
    ...{ current: true, dumper, audited: [routes], watchEvents() {} },
    resync: () => resyncs++,
  };
  const counters = new Float64Array(Object.keys(NETLINK.index).length);
  const audit = new Audit(mirror as unknown as AuditedMirror, { counters, now: 0, log() {} });
  const reports: AuditReport[] = [];
  audit.request((report) => reports.push(report));
  audit.turn(0);
  for (let pass = 0; pass < 2; pass++) {
    endPass("done");
    audit.turn(0);
  }
  audit.turn(performance.now() + 10_000);
  assert.deepEqual([dumps, resyncs, reports.length], [2, 1, 1]);
  assert.equal(reports[0].divergent, 65_536);
  assert.equal(counters[NETLINK.index.audit_difference_routes], 65_536);
});

Deno.test("what an event has named meanwhile is no difference", () => {
  const routes: Audited = {
    ...{ table: "routes", types: [24], dumps: ["routes"], entries: () => 2, begin() {}, read() {} },
    subject: () => "route 1",
    end(differs) {
      for (const what of ["route 1", "route 2"]) differs(what);
    },
  };
  let endPass = (_end: "done") => {};
  let watcher: ((message: MessageCursor) => void) | null = null;
  const dumper = {
    busy: false,
    dump(_kinds: unknown, { done }: { done(end: "done"): void }) {
      endPass = done;
      return true;
    },
    abandon() {},
  };
  const mirror = {
    ...{ current: true, dumper, audited: [routes], resync() {} },
    watchEvents: (wanted: typeof watcher) => watcher = wanted,
  };
  const counters = new Float64Array(Object.keys(NETLINK.index).length);
  /** What an audit finds where the event comes at this moment. */
  const found = (moment: "none" | "before its end" | "behind its end") => {
    const audit = new Audit(mirror as unknown as AuditedMirror, { counters, now: 0, log() {} });
    let divergent = -1;
    audit.request((report) => divergent = report.divergent);
    audit.turn(0);
    endPass("done");
    if (moment === "before its end") watcher!({ type: 24 } as MessageCursor);
    endPass("done");
    if (moment === "behind its end") watcher!({ type: 24 } as MessageCursor);
    audit.turn(performance.now() + 10_000);
    return divergent;
  };
  assert.equal(found("none"), 2);
  assert.equal(found("before its end"), 1);
  assert.equal(found("behind its end"), 1, "some events come late");
});
