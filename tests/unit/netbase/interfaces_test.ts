// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import {
  IFF_LOWER_UP,
  IFF_UP,
  type InterfaceAddress,
  type InterfaceLink,
} from "../../../netbase/interfaces.ts";
import { makeRoom, removeAddress, setAddress, setLink } from "../netbase_room.ts";
import fc from "../property.ts";

type Seen = InterfaceLink & { addresses: InterfaceAddress[] };

/** An interface's addresses as `inet_insert_ifa` keeps them. */
function insert(list: InterfaceAddress[], one: InterfaceAddress): void {
  if (one.secondary) {
    list.push(one);
    return;
  }
  const lastAsNarrow = list.findLastIndex((other) => !other.secondary && one.scope <= other.scope);
  list.splice(lastAsNarrow + 1, 0, one);
}

const anyLink: fc.Arbitrary<InterfaceLink> = fc.record({
  ifindex: fc.constantFrom(1, 2, 3, 7, 70_001),
  name: fc.constantFrom("lo", "eth0", "a-very-long-nam", "ü"),
  flags: fc.constantFrom(IFF_UP, IFF_UP | IFF_LOWER_UP, 0),
  mtu: fc.constantFrom(1500, 9000),
  operstate: fc.constantFrom(2, 6),
  macHead: fc.integer({ min: 0, max: 0xffffffff }),
  macTail: fc.integer({ min: 0, max: 0xffff }),
  broadcastHead: fc.integer({ min: 0, max: 0xffffffff }),
  broadcastTail: fc.integer({ min: 0, max: 0xffff }),
  link: fc.constantFrom(0, 1),
  master: fc.constantFrom(0, 1),
  vlanId: fc.constantFrom(0, 4094),
  vlanProtocol: fc.constantFrom(0, 0x8100, 0x88a8),
});

const LINK = fc.sample(anyLink, { numRuns: 1, seed: 1 })[0];

const anyAddress: fc.Arbitrary<InterfaceAddress> = fc.record({
  local: fc.integer({ min: 0xc6120000, max: 0xc6120008 }),
  address: fc.constantFrom(0xc6120001, 0xcb007101),
  prefixLength: fc.constantFrom(24, 32),
  broadcast: fc.constantFrom(0, 0xc61200ff),
  scope: fc.constantFrom(0, 200, 253, 254),
  secondary: fc.boolean(),
  label: fc.constantFrom("eth0", "eth0:a-very-lon"),
});

const act = fc.oneof(
  fc.record({ do: fc.constant("link" as const), link: anyLink }),
  fc.record({ do: fc.constant("unlink" as const), link: anyLink }),
  fc.record({ do: fc.constant("address" as const), link: anyLink, address: anyAddress }),
  fc.record({ do: fc.constant("address" as const), link: anyLink, address: anyAddress }),
  fc.record({ do: fc.constant("unaddress" as const), link: anyLink, address: anyAddress }),
  fc.record({ do: fc.constantFrom("resync" as const, "commit" as const) }),
);

function isSame(a: InterfaceAddress, b: InterfaceAddress): boolean {
  return a.local === b.local && a.address === b.address && a.prefixLength === b.prefixLength;
}

Deno.test("the table is what the kernel said, addresses in the kernel's order, after any history", () => {
  fc.assert(
    fc.property(fc.array(act, { maxLength: 80, size: "max" }), (acts) => {
      const { writer, reader, standing } = makeRoom();
      const model = new Map<number, Seen>();
      for (const ifindex of [1, 2]) {
        setLink(writer, { ...LINK, ifindex });
        model.set(ifindex, { ...LINK, ifindex, addresses: [] });
      }
      for (const one of acts) {
        const { interfaces } = writer;
        if (one.do === "link") {
          const addresses = model.get(one.link.ifindex)?.addresses ?? [];
          assert.ok(setLink(writer, one.link));
          model.set(one.link.ifindex, { ...one.link, addresses });
        } else if (one.do === "unlink") {
          const { ifindex } = one.link;
          assert.equal(interfaces.remove(ifindex), model.delete(ifindex));
        } else if (one.do === "address") {
          const known = model.get(one.link.ifindex);
          const { ifindex } = one.link;
          const told = known?.addresses.find((other) => isSame(other, one.address));
          assert.equal(setAddress(writer, ifindex, one.address), known !== undefined);
          if (known === undefined) continue;
          const { label } = one.address;
          if (
            told !== undefined && JSON.stringify({ ...told, label }) === JSON.stringify(one.address)
          ) {
            known.addresses = known.addresses.map((other) => other === told ? one.address : other);
            continue;
          }
          known.addresses = known.addresses.filter((other) => other !== told);
          insert(known.addresses, { ...one.address });
        } else if (one.do === "unaddress") {
          const known = model.get(one.link.ifindex);
          const left = known?.addresses.filter((other) => !isSame(other, one.address)) ?? [];
          const had = known !== undefined && left.length < known.addresses.length;
          assert.equal(removeAddress(writer, one.link.ifindex, one.address), had);
          if (known !== undefined) known.addresses = left;
        } else if (one.do === "resync") {
          // The kernel has lost one interface and all second addresses without a word.
          model.delete([...model.keys()][0]);
          for (const entry of model.values()) entry.addresses.splice(1, 1);
          for (const { ifindex } of interfaces.all()) {
            if (!model.has(ifindex)) interfaces.remove(ifindex);
          }
          for (const entry of model.values()) assert.ok(interfaces.put(entry));
        } else {
          writer.commit();
          standing.burst++;
        }
      }
      for (const ifindex of [1, 2, 3, 7, 70_001]) {
        const expected = model.get(ifindex) ?? null;
        const plain = JSON.parse(JSON.stringify(expected)) as Seen | null;
        assert.deepEqual(reader.interfaces.get(ifindex), plain);
      }
      const indices = [...model.keys()].sort((a, b) => a - b);
      assert.deepEqual(reader.interfaces.all().map(({ ifindex }) => ifindex), indices);
      assert.equal(writer.interfaces.size, indices.length);
    }),
    { numRuns: 200 },
  );
});

Deno.test("put() brings addresses into the order told", () => {
  const { writer, reader } = makeRoom();
  const address = (last: number): InterfaceAddress => {
    const local = 0xc6120000 + last;
    return { local, address: local, prefixLength: 24, broadcast: 0, scope: 0, secondary: false };
  };
  const told = { ...LINK, addresses: [3, 1, 2].map(address) };
  assert.ok(writer.interfaces.put({ ...LINK, addresses: [1, 2, 3].map(address) }));
  assert.ok(writer.interfaces.put(told));
  const order = reader.interfaces.get(LINK.ifindex)?.addresses.map(({ local }) => local & 0xff);
  assert.deepEqual(order, [3, 1, 2]);
});

Deno.test("an interface changes for ever without using up records or runs", () => {
  const { writer, reader, standing } = makeRoom();
  const link = { ...LINK, ifindex: 2 };
  for (let i = 0; i < 70_000; i++) {
    assert.ok(setLink(writer, { ...link, mtu: 1000 + i }));
    const local = 0xc6120000 + (i & 7);
    const one = { local, address: local, prefixLength: 24, broadcast: 0, scope: 0 };
    assert.ok(setAddress(writer, 2, { ...one, secondary: i % 16 > 7 }));
    standing.burst++;
    writer.commit();
  }
  assert.equal(reader.interfaces.mtu(reader.interfaces.find(2)), 70_999);
});

Deno.test("while a reader stands still the addresses that it has found are not written over", () => {
  const { writer, reader, standing } = makeRoom();
  const { interfaces } = writer;
  const address = (local: number) => ({
    ...{ local, address: local, prefixLength: 24, broadcast: 0, scope: 0, secondary: false },
  });
  const put = (ifindex: number, local: number) =>
    interfaces.put({ ...LINK, ifindex, addresses: [address(local), address(local + 1)] });
  assert.ok(put(2, 0xc6120001));
  writer.commit();
  const record = reader.interfaces.find(2);
  for (let i = 1; i < 50; i++) {
    assert.ok(put(2, 0xcb007100 + i));
    assert.ok(put(2 + i, 0xc0000200 + i));
    writer.commit();
  }
  assert.equal(reader.interfaces.local(record, 0), 0xc6120001);
  assert.equal(reader.interfaces.local(record, 1), 0xc6120002);
  standing.burst++;
});
