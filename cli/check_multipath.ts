/**
 * Settings by which the kernel spreads flows over several hops otherwise than Tegula does: no message of
 * netlink tells of them.
 */

import type { Route } from "../netbase/route.ts";
import type { Finding } from "./check_findings.ts";

const SETTINGS = "/proc/sys/net/ipv4/";
/** Of fib_multipath_hash_policy: addresses and ports. */
const BY_PORTS = 1;

/** What differs where there are routes with several hops. */
export function checkMultipath(routes: Iterable<Route>): Finding[] {
  const kinds = { hops: false, objects: false };
  for (const { hops, nextHopId } of routes) {
    if (hops !== null) kinds[nextHopId === 0 ? "hops" : "objects"] = true;
  }
  const findings: Finding[] = [];
  const policy = setting("fib_multipath_hash_policy");
  if ((kinds.hops || kinds.objects) && policy !== BY_PORTS) {
    findings.push({
      verdict: "warn",
      subject: "multipath",
      says: `fib_multipath_hash_policy is ${policy}: Tegula spreads flows by their ports too`,
      fix: `sysctl -w net.ipv4.fib_multipath_hash_policy=${BY_PORTS}`,
    });
  }
  if (kinds.hops && setting("fib_multipath_use_neigh") !== 0) {
    findings.push({
      verdict: "warn",
      subject: "multipath",
      says: "fib_multipath_use_neigh is set: Tegula leaves a dead gateway only in next-hop groups",
      fix: "sysctl -w net.ipv4.fib_multipath_use_neigh=0   # or use 'ip nexthop' groups",
    });
  }
  return findings;
}

function setting(name: string): number {
  return Number(Deno.readTextFileSync(SETTINGS + name));
}
