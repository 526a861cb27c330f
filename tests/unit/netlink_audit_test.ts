import assert from "node:assert/strict";
import { Audit, type AuditedMirror } from "../../tiles/netlink/audit.ts";
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
