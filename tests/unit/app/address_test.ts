// SPDX-License-Identifier: Apache-2.0
/** Addresses of apps, next to texts and numbers that say the same. */

import assert from "node:assert/strict";
import { isIPv4 } from "node:net";
import { Address, Prefix } from "../../../tiles/app/address.ts";
import type { Answers } from "../../../tiles/app/contract.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";
import fc from "../property.ts";

const word = fc.nat(0xffff_ffff);
/** Any address, of IPv6 too. */
const words = fc.oneof(
  word.map((ipv4) => [0, 0, 0xffff, ipv4]),
  fc.array(fc.oneof(word, fc.nat(1)), { minLength: 4, maxLength: 4 }),
);
const made = (all: readonly number[]) => new Address().load(all);
const number = (all: readonly number[]) =>
  all.reduce((value, each) => (value << 32n) | BigInt(each), 0n);

Deno.test("an address is parsed from the text that it is formatted to", () => {
  fc.assert(fc.property(fc.ipV4(), (text) => {
    assert.equal(`${Address.parse(text)}`, text);
    const ipv4 = text.split(".").reduce((word, byte) => word * 256 + Number(byte), 0);
    assert.deepEqual([...Address.parse(text)!.words], [0, 0, 0xffff, ipv4]);
  }));
  fc.assert(fc.property(fc.string({ unit: fc.constantFrom(..."0123456789./:ax ") }), (text) => {
    assert.equal(Address.parse(text) !== null, isIPv4(text));
  }));
});

Deno.test("console and JSON have addresses and prefixes as their texts", () => {
  const said = { from: Address.parse("198.18.0.2"), of: Prefix.parse("198.18.0.0/15") };
  assert.equal(Deno.inspect(said), "{ from: 198.18.0.2, of: 198.18.0.0/15 }");
  assert.equal(JSON.stringify(said), '{"from":"198.18.0.2","of":"198.18.0.0/15"}');
});

Deno.test("addresses are equal, and in order, as their 128 bits are", () => {
  fc.assert(fc.property(words, words, (one, other) => {
    const [a, b] = [number(one), number(other)];
    assert.equal(made(one).compare(made(other)), a < b ? -1 : a > b ? 1 : 0);
    assert.equal(made(one).equals(made(other)), a === b);
    assert.ok(made(one).equals(made(one).copy()));
  }));
});

Deno.test("a prefix covers the addresses that have its first bits, and those alone", () => {
  const length = fc.nat(32);
  fc.assert(fc.property(word, word, length, (address, other, length) => {
    const near = length === 32 ? address : (address ^ (other >>> length)) >>> 0;
    for (const each of [other, near, address]) {
      const shift = 32n - BigInt(length);
      const expected = BigInt(each) >> shift === BigInt(address) >> shift;
      const prefix = Prefix.parse(`${new Address(address)}/${length}`)!;
      assert.equal(new Address(each).isIn(prefix), expected);
      assert.ok(!made([0x20010db8, 0, 0, each]).isIn(prefix), "none of IPv6");
    }
  }));
  for (const text of ["", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/8/9", "1.2.3/8", "here"]) {
    assert.equal(Prefix.parse(text), null, text);
  }
  assert.equal(`${Prefix.parse("192.0.2.1")}`, "192.0.2.1/32");
});

Deno.test("an address stays when it is stored in words and loaded again", () => {
  fc.assert(fc.property(words, fc.nat(4), (all, at) => {
    const table = new Uint32Array(8).fill(7);
    made(all).store(table, at);
    assert.deepEqual([...new Address().load(table, at).words], all);
    assert.equal(table.filter((each) => each === 7).length >= 4, true);
  }));
});

Deno.test("a hash depends on every word and on the key, and spreads addresses that differ by little", () => {
  fc.assert(fc.property(words, fc.nat(3), fc.nat(31), word, (all, at, bit, key) => {
    const other = all.with(at, (all[at] ^ (1 << bit)) >>> 0);
    const [one, two] = [made(all).hash(key), made(other).hash(key)];
    assert.equal(one, made(all).hash(key));
    assert.ok(one >= 0 && one <= 0xffff_ffff && Number.isInteger(one));
    // Multiplying by an odd number and folding can be undone, so no two such addresses meet.
    assert.notEqual(one, two);
  }));
  const counts = new Map<number, number>();
  for (let i = 0; i < 65_536; i++) {
    const slot = new Address(0xc6120000 + i).hash(12_345) & 1023;
    counts.set(slot, (counts.get(slot) ?? 0) + 1);
  }
  // 64 in a slot, by chance about 32 to 100.
  assert.ok(counts.size === 1024 && Math.max(...counts.values()) < 128);
});

Deno.test("an address that is none of IPv4 cannot be sent to yet, and says so", () => {
  const address = made([0x20010db8, 0, 0, 1]);
  assert.ok(!address.isIPv4);
  assert.throws(() => address.ipv4, /only IPv4 addresses are supported/);
});

Deno.test("what is no address is refused where one is sent to, with what makes one", async () => {
  for (const address of [0xc6120002, "198.18.0.2"] as unknown[] as Address[]) {
    const harness = await AppHarness.start({
      answer: (_: unknown, out: Answers) => out.send({ address, port: 9 }, "x"),
    });
    assert.deepEqual(harness.ask({ payload: "" }), []);
    assert.match(harness.logged.join(), /is not an address: context\.parseAddress\(\) makes one/);
  }
});
