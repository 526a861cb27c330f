// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { parseZoneFile, Zone } from "../../../apps/dns/zone.ts";

Deno.test("a zone file that is wrong is refused with its line", () => {
  const soa = "$ORIGIN a.\n@ 60 SOA ns x 1 1 1 1 1\n";
  const refused = (text: string, sentence: RegExp) =>
    assert.throws(() => new Zone(parseZoneFile(text)), sentence);
  refused("www A 198.18.0.1", /^SyntaxError: line 1: 'www' is relative/);
  refused(`${soa}www A 198.18.0.256`, /line 3: '198.18.0.256' is not an IPv4 address/);
  refused(`${soa}www A`, /line 3: an IPv4 address is missing/);
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
      /line 3: '.*' is not a (name that can be served|domain name)/,
    );
  }
});

Deno.test("data of later types is that of their RFCs, and any type may be written as bytes", () => {
  const soa = "$ORIGIN a.\n@ 60 SOA ns x 1 1 1 1 1\n";
  const hex = (line: string) => {
    const { type, data } = parseZoneFile(`${soa}x ${line}`)[1];
    return `${type} ${data instanceof Uint8Array ? data.toHex() : data}`;
  };
  // RFC 9460, appendix D
  assert.equal(hex("SVCB 0 foo.example.com."), "UNKNOWN_64 000003666f6f076578616d706c6503636f6d00");
  assert.equal(hex("HTTPS 1 ."), "UNKNOWN_65 000100");
  assert.equal(
    hex("SVCB 16 foo.example.com. port=53"),
    "UNKNOWN_64 001003666f6f076578616d706c6503636f6d00000300020035",
  );
  assert.equal(
    hex('SVCB 1 foo.example.com. key667="hello\\210qoo"'),
    "UNKNOWN_64 000103666f6f076578616d706c6503636f6d00029b000968656c6c6fd2716f6f",
  );
  assert.equal(
    hex('SVCB 1 . ipv6hint="2001:db8::1,2001:db8::53:1"'),
    "UNKNOWN_64 0001000006002020010db800000000000000000000000120010db8000000000000000000530001",
  );
  assert.equal(
    hex('SVCB 16 . alpn="f\\\\oo\\,bar,h2" mandatory=ipv4hint,alpn ipv4hint=192.0.2.1'),
    "UNKNOWN_64 001000000000040001000400" + "01000c08665c6f6f2c626172026832" + "00040004c0000201",
  );
  assert.equal(hex("DS 60485 5 1 2BB183 AF"), "UNKNOWN_43 ec4505012bb183af");
  assert.equal(hex("SSHFP 2 1 1234"), "UNKNOWN_44 02011234");
  assert.equal(hex("TLSA 3 1 1 abcd"), "UNKNOWN_52 030101abcd");
  // RFC 3597, section 5
  assert.equal(hex("TYPE62347 \\# 4 0A 000001"), "UNKNOWN_62347 0a000001");
  assert.equal(hex("TYPE62347 \\# 0"), "UNKNOWN_62347 ");
  assert.equal(hex("TYPE1 198.18.0.1"), "A 198.18.0.1");
  assert.equal(hex("A \\# 4 C6120001"), "A 198.18.0.1");
  assert.equal(hex("TYPE65 1 ."), "UNKNOWN_65 000100");
  for (
    const [line, sentence] of [
      ["HTTPS 1 . port=65536", /'65536' is not a port/],
      ["HTTPS 1 . port=53,54", /'53,54' is not a port/],
      ["HTTPS 1 . alpn", /'' is not a list/],
      ["HTTPS 1 . no-default-alpn=x", /no-default-alpn takes no value/],
      ["HTTPS 1 . ipv4hint=198.18.0.256", /is not an IPv4 address/],
      ["HTTPS 1 . color=red", /'color' is not a key of a service parameter/],
      ["HTTPS 1 . port=1 port=2", /port comes twice/],
      ["A \\# 3 C61200", /the data is not valid for type A/],
      ["TYPE777 x", /the data of TYPE777 must be written as \\#/],
      ["TYPE777 \\# 2 aa", /says 2 bytes, but has 1/],
      ["TYPE252 \\# 0", /'TYPE252' is not a record type/],
      ["TYPE65536 \\# 0", /'TYPE65536' is not a record type/],
      ["TLSA 3 1 1 abc", /are not hexadecimal digits of whole bytes/],
      ["AAAA fe80::1%eth0", /is not an IPv6 address/],
    ] as const
  ) assert.throws(() => hex(line), sentence);
});
