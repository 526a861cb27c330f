import assert from "node:assert/strict";
import { parseZoneFile, Zone } from "../../../apps/dns/zone.ts";

Deno.test("a zone file that is wrong is refused with its line", () => {
  const soa = "$ORIGIN a.\n@ 60 SOA ns x 1 1 1 1 1\n";
  const refused = (text: string, sentence: RegExp) =>
    assert.throws(() => new Zone(parseZoneFile(text)), sentence);
  refused("www A 198.18.0.1", /^SyntaxError: line 1: 'www' is relative/);
  refused(`${soa}www A 198.18.0.256`, /line 3: '198.18.0.256' is no IPv4 address/);
  refused(`${soa}www A`, /line 3: IPv4 address is missing/);
  refused(`${soa}www A 198.18.0.1 more`, /line 3: 'more' is too much/);
  refused(`${soa}\n\nwww ( MX \n 10`, /a parenthesis is not closed/);
  refused(`${soa}www TXT "open`, /line 3: " has no end/);
  refused(`${soa}www HINFO x y`, /type 'HINFO' is not known; known are A,/);
  refused(`${soa}www CH A 198.18.0.1`, /class CH is not served/);
  refused(`${soa}$INCLUDE other`, /\$INCLUDE other is not understood/);
  refused(`${soa}www.b. A 198.18.0.1`, /www.b is not in zone a/);
  refused(`${soa}www CNAME x\nwww A 198.18.0.1`, /www.a is an alias/);
  refused("$ORIGIN a.\nwww 60 A 198.18.0.1", /one SOA record, not 0/);
  for (const name of ["a\\.b", "a\\000b", "caf\u00e9", "a\0", '"a"', "x".repeat(64), "a..b"]) {
    refused(
      `${soa}${name} A 198.18.0.1`,
      /line 3: '.*' is no (name that can be served|domain name)/,
    );
  }
});
