// SPDX-License-Identifier: Apache-2.0
/**
 * Deliberate bugs that a user would notice, each with the tests that should fail. `scripts/mutants` tries
 * them. A mutant names a declaration, and a text that occurs once in it, so it survives when code moves. When
 * that text changes, the mutant has to change: a unit test reports stale ones.
 */

import type { Mutant } from "../scripts/mutants.ts";

type InFile = Omit<Mutant, "file" | "tests"> & Partial<Pick<Mutant, "tests">>;

/** Mutants of one file, which `tests` notice unless a mutant names others. */
function mutantsOf(
  file: string,
  tests: readonly string[],
  mutants: readonly InFile[],
): readonly Mutant[] {
  return mutants.map((mutant) => ({ file, tests, ...mutant }));
}

/** All of them. */
export const MUTANTS: readonly Mutant[] = [
  ...mutantsOf("tiles/runtime/tile.ts", ["unit/runtime/loop"], [
    {
      name: "loop: a tile that leaves hands nothing over",
      in: "runLoop",
      from: "tile.relinquish?.();",
      to: "",
    },
    {
      name: "loop: nobody leaves",
      in: "runLoop",
      from: "if (control.leaving)",
      to: "if (false)",
    },
    {
      name: "loop: no second look before it sleeps",
      in: "runLoop",
      from: "const sleeps = !tile.pending();",
      to: "const sleeps = true;",
    },
    {
      name: "loop: looks before it says that it sleeps",
      in: "runLoop",
      from: "region.fallAsleep();\n    const sleeps = !tile.pending();",
      to: "const sleeps = !tile.pending();\n    region.fallAsleep();",
    },
    {
      name: "loop: never says that it is awake again",
      in: "runLoop",
      from: "region.awake();",
      to: "",
    },
    {
      name: "loop: no quiescent state",
      in: "runLoop",
      from: "region.quiescent();",
      to: "",
    },
    {
      name: "loop: spins after it has woken a tile that shares its cores",
      in: "runLoop",
      from: "patience = handsOver ? 1 : spinTurns;",
      to: "",
    },
    {
      name: "loop: a long turn does not look at the clock",
      in: "runLoop",
      from: " && control.pulse === pulse",
      to: "",
    },
    {
      name: "loop: the clock of before a sleep is gone by after it",
      in: "runLoop",
      from: "if (sleeps) tile.clock?.(performance.now());",
      to: "",
    },
    {
      name: "loop: a sleep is not cut short by what is due",
      in: "sleepMillis",
      from: "Math.min(due, LONGEST_SLEEP_MILLIS)",
      to: "LONGEST_SLEEP_MILLIS",
    },
    {
      name: "loop: a stopping tile sleeps for a second",
      in: "sleepMillis",
      from: "if (stopping) return 1;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/runtime/tile.ts", ["unit/runtime/tile_region"], [
    {
      name: "waker: a sleeping tile is not woken",
      in: "Waker.published",
      from: "(sleep & 1) === 0 ||",
      to: "(sleep & 1) === 1 ||",
    },
    {
      name: "waker: a tile is woken for its first sleep alone",
      in: "Waker.published",
      from: "this.#woken = sleep;",
      to: "this.#woken = sleep + 2;",
    },
    {
      name: "waker: a system call for each burst",
      in: "Waker.published",
      from: " || sleep === this.#woken",
      to: "",
    },
    {
      name: "tile region: the successor of one that slept sleeps when it is awake",
      in: "TileRegion.fallAsleep",
      from: "(this.#words[SLEEP] + 1) | 1",
      to: "this.#words[SLEEP] + 1",
    },
  ]),

  ...mutantsOf("tiles/runtime/link.ts", ["unit/runtime/link_test"], [
    {
      name: "link: a full link is taken for a corrupt one",
      in: "LinkConsumer.available",
      from: "waiting <= this.depth",
      to: "waiting < this.depth",
    },
    {
      name: "link: a producer's cursor is believed",
      in: "LinkConsumer.available",
      from: "if (waiting <= this.depth) return waiting;",
      to: "return waiting;",
    },
    {
      name: "link: a consumer's cursor is believed",
      in: "LinkProducer.refresh",
      from: "((this.#published - seen) >>> 0) <= ((this.#published - this.#passed) >>> 0)",
      to: "true",
    },
    {
      name: "link: published before it is pushed",
      in: "LinkProducer.publish",
      from: "Atomics.store(this.words, PRODUCED, this.#head)",
      to: "Atomics.store(this.words, PRODUCED, this.#head + 1)",
    },
    {
      name: "link: what was passed is not told",
      in: "LinkConsumer.release",
      from: "Atomics.store(this.#own, CONSUMED, this.#tail);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/runtime/link.ts", ["unit/app/net_side", "unit/net/app_link"], [
    {
      name: "link: a payload overwrites one that was not read yet",
      in: "PayloadRing.reserve",
      from: "((end - tail) >>> 0) > mask + 1",
      to: "false",
    },
  ]),

  ...mutantsOf("tiles/runtime/wiring.ts", ["unit/runtime/wiring"], [
    {
      name: "wiring: an app reads the UMEM beside another",
      in: "linkShape",
      from: "!inline && app === apps[0].app",
      to: "!inline",
    },
    {
      name: "wiring: an app reads the UMEM beside one that is inline",
      in: "linkShape",
      from: "!inline && app === apps[0].app",
      to: "app === apps[0].app",
    },
  ]),

  ...mutantsOf("tiles/net/arp_queue.ts", ["unit/net/solicit_link"], [
    {
      name: "solicit link: what was overwritten while it was read is believed",
      in: "SolicitConsumer.take",
      from: "if (behind > SOLICIT_DEPTH - UNSAFE) {",
      to: "if (behind > 2 * SOLICIT_DEPTH) {",
    },
    {
      name: "solicit link: what may be overwritten before it is published is read",
      in: "SolicitConsumer.take",
      from: "if (((head - this.#tail) >>> 0) > SOLICIT_DEPTH - UNSAFE) this.#skip(head);",
      to: "if (((head - this.#tail) >>> 0) >= SOLICIT_DEPTH) this.#skip(head);",
      equivalent: "the same bound is looked at again after the messages were read",
    },
    {
      name: "solicit link: what was overwritten is not counted",
      in: "SolicitConsumer.#skip",
      from: "this.lapped += (tail - this.#tail) >>> 0;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/runtime/appliance.ts", ["unit/runtime/supervisor"], [
    {
      name: "supervisor: a tile whose thread is gone lives on",
      in: "TileWorker.#isGone",
      from: "!this.#threads.isRunning(this.#thread)",
      to: "false",
    },
    {
      name: "supervisor: one that hangs is not ended",
      in: "TileWorker.poll",
      from: "this.#stalled = lives ? 0 : this.#stalled + 1;",
      to: "this.#stalled = 0;",
    },
    {
      name: "supervisor: a tile that claims that it was stopped is believed",
      in: "TileWorker.#receive",
      from: "else if (this.#isToEnd) this.#end",
      to: "else if (!this.over) this.#end",
    },
    {
      name: "supervisor: a tile that says it has failed is gone at once",
      in: "TileWorker.#end",
      from: "if (this.#isGone()) this.#settle(ending);",
      to: "if (true) this.#settle(ending);",
    },
    {
      name: "supervisor: the kernel is not asked whether a thread is confined",
      in: "TileWorker.#receive",
      from: "!this.#threads.isConfined(this.#thread, ALLOWED_CAPABILITIES[kind])",
      to: "false",
    },
    {
      name: "supervisor: a start that never ends is not ended",
      in: "TileWorker.poll",
      from: "const late = !this.#runs && this.#age >= START_POLLS;",
      to: "const late = false;",
    },
    {
      name: "reports: a second worker takes a tile's place by what one says",
      in: "reportReader",
      from: "!isInTurn || said.has(type)",
      to: "!isInTurn",
    },
    {
      name: "reports: any tile asks for what is the status tile's to ask",
      in: "reportReader",
      from: 'type === "ask" && kind === "status"',
      to: 'type === "ask" && kind !== "netlink"',
    },
    {
      name: "reports: main hears as much as a tile says",
      in: "reportReader",
      from: "++count > REPORTS_A_SECOND",
      to: "++count < 0",
    },
  ]),

  ...mutantsOf("netbase/netbase_writer.ts", ["unit/netbase/fib_test"], [
    {
      name: "fib: a tbl8 is used again without a grace period",
      in: "FibBuilder.#fill",
      from: "this.#deferred.retire(this, old & TBL8_MASK);",
      to: "this.reclaim(old & TBL8_MASK);",
    },
    {
      name: "fib: tbl8s are lost",
      in: "FibBuilder.#fill",
      from: "if ((old & TBL8_BIT) !== 0) this.#deferred.retire(this, old & TBL8_MASK);",
      to: "",
    },
    {
      name: "fib: cells say 0 before the default has moved",
      in: "FibBuilder.#fill",
      from: "if (id === 0 && this.#keepCovered) return;",
      to: "",
      tests: ["unit/netbase/store"],
    },
    {
      name: "fib: a tbl8 is published before it is filled",
      in: "FibBuilder.#fillBlock",
      from: "const base = TBL24_CELLS + tbl8 * TBL8_CELLS;",
      to: "Atomics.store(this.words, cell, TBL8_BIT | tbl8);\n" +
        "    const base = TBL24_CELLS + tbl8 * TBL8_CELLS;",
      tests: ["unit/netbase/store"],
    },
  ]),

  ...mutantsOf("netbase/netbase_writer.ts", ["unit/netbase/store"], [
    {
      name: "fib: the default moves before readers have let go of cells",
      in: "FibBuilder.#proceed",
      from: "if (!isOver(this.#sinceCells)) return false;",
      to: "",
      tests: ["unit/netbase/store", "unit/netbase/fib"],
    },
    {
      name: "fib: cells change before readers have let go of the default",
      in: "FibBuilder.#proceed",
      from: "if (cells && !isOver(this.#sinceMove)) return false;",
      to: "",
      tests: ["unit/netbase/store", "unit/netbase/fib"],
    },
    {
      name: "fib: what did not fit is not retried",
      in: "FibBuilder.#retryNextHops",
      from: "for (const node of take(this.#noNextHop, MOST_RETRIES)) this.#rib.touch(node);",
      to: "",
      tests: ["unit/netbase/groups"],
    },
  ]),

  ...mutantsOf("netbase/rcu.ts", ["unit/netbase/pools"], [
    {
      name: "rcu: a grace period ends with the first reader",
      in: "Grace.over",
      from: "else over = false;",
      to: "else over = over && i > 0;",
    },
    {
      name: "rcu: a sleeping reader is waited for",
      in: "Grace.over",
      from: "reader.asleep || ",
      to: "",
    },
    {
      name: "rcu: a batch takes more in though a reader has moved",
      in: "Grace.restart",
      from:
        "if (this.#readers.some((reader, i) => reader.burst !== this.#bursts[i])) return false;",
      to: "",
    },
    {
      name: "rcu: items are freed before their grace period is over",
      in: "DeferredFree.reclaim",
      from: "this.#sealed[done].grace.over",
      to: "this.#sealed.length > done",
    },
  ]),

  ...mutantsOf("netbase/tables_writer.ts", ["unit/netbase/neighbors_test"], [
    {
      name: "hash table: its old place is used again without a grace period",
      in: "HashTableWriter.#rebuild",
      from: "this.#deferred.retire(this.#placePool, old & PLACE_MASK);",
      to: "this.#placePool.reclaim(old & PLACE_MASK);",
    },
    {
      name: "hash table: a replaced record is used again without a grace period",
      in: "HashTableWriter.put",
      from: "this.#deferred.retire(this.#records, this.#numberOf(this.#recordIn(before)));",
      to: "this.#records.reclaim(this.#numberOf(this.#recordIn(before)));",
    },
    {
      name: "hash table: a removed key empties its slot",
      in: "HashTableWriter.#removeAt",
      from: "if (this.words[next] !== EMPTY) {",
      to: "if (false) {",
    },
    {
      name: "hash table: nothing is swept",
      in: "HashTableWriter.endSync",
      from: "this.remove(this.words[record], this.words[record + 1]);",
      to: "",
    },
    {
      name: "hash table: records of what found no slot are lost",
      in: "HashTableWriter.put",
      from: "this.#records.reclaim(this.#numberOf(record));",
      to: "",
      tests: ["unit/netbase/neighbors_full"],
    },
  ]),

  ...mutantsOf("netbase/neighbors.ts", ["unit/netbase/neighbors_test"], [
    {
      name: "neighbours: in DELAY their MAC is not used",
      in: "NUD_VALID",
      from: "NUD_STALE |\n  NUD_DELAY",
      to: "NUD_STALE",
    },
    {
      name: "neighbours: one without a MAC is sent to",
      in: "NeighborReader.lookup",
      from: "(this.words[(record + Neighbor.state) | 0] & USABLE) !== 0 ? record : -1",
      to: "record",
    },
  ]),

  ...mutantsOf("netbase/tables_writer.ts", ["unit/netbase/neighbors_test"], [
    {
      name: "neighbours: a MAC that has changed is not written",
      in: "NeighborWriter.#hasMac",
      from: "this.words[record + Neighbor.macHead] === entry.macHead >>> 0 &&\n" +
        "      this.words[record + Neighbor.macTail] === entry.macTail >>> 0",
      to: "record >= 0",
    },
    {
      name: "neighbours: what has become usable does not move the generation",
      in: "NeighborWriter.set",
      from: "if (!isSame) this.changes++;",
      to: "",
      tests: ["unit/netbase/neighbors", "unit/net/arp_release"],
    },
    {
      name: "neighbours: a wrong MAC stays where there is no room for the right one",
      in: "NeighborWriter.set",
      from: "this.remove(entry.ifindex, entry.address);",
      to: "",
      tests: ["unit/netbase/neighbors_full"],
    },
  ]),

  ...mutantsOf("netbase/tables_writer.ts", ["unit/netbase/interfaces"], [
    {
      name: "interfaces: runs of addresses are lost",
      in: "InterfaceWriter.put",
      from: "if (old >= 0) this.#retireRun(old);",
      to: "",
    },
    {
      name: "interfaces: a run is used again without a grace period",
      in: "InterfaceWriter.#retireRun",
      from: "this.#deferred.retire(this.#runs, this.words[record + Interface.addresses]);",
      to: "this.#runs.reclaim(this.words[record + Interface.addresses]);",
    },
  ]),

  ...mutantsOf("netbase/netbase.ts", ["unit/netbase/decision"], [
    {
      name: "decision: a route's preferred source is not taken",
      in: "follow",
      from: "if (out.source === 0) out.source = hops.source(id);",
      to: "",
    },
    {
      name: "decision: what is sent from an address that is not ours goes out",
      in: "decide",
      from: "if (own === 0 || reader.nextHops.kind(own) !== RTN_LOCAL) return RTN_UNSPEC;",
      to: "",
    },
    {
      name: "decision: multicast goes to the default route's gateway",
      in: "finish",
      from:
        "if (out.nextHop === 0 || (reader.nextHops.flags(out.nextHop) & NextHopFlag.short) !== 0) {",
      to: "if (out.nextHop === 0) {",
    },
    {
      name: "decision: a loopback source leaves by the wire",
      in: "finish",
      from: "if (out.source >>> 24 === 127 && !onLoopback) return out.kind = RTN_BLACKHOLE;",
      to: "",
    },
    {
      name: "decision: secondary addresses are sources",
      in: "selectAddress",
      from: "if (interfaces.isSecondary(record, i)) continue;",
      to: "",
    },
  ]),

  ...mutantsOf("netbase/rib.ts", ["unit/netbase/fib_test"], [
    {
      name: "attributes: routes that differ in their source are one",
      in: "isEqual",
      from: "a.source === b.source &&",
      to: "",
    },
    {
      name: "attributes: a dead route counts",
      in: "isUsable",
      from: "if ((attributes.flags & RTNH_F_DEAD) !== 0) return false;",
      to: "",
    },
    {
      name: "attributes: next hops of sets that nobody has are lost",
      in: "AttributeTable.sweep",
      from: "for (const id of set.nextHops) if (id !== 0) this.#nextHops.release(id);",
      to: "",
      tests: ["unit/netbase/groups", "unit/netbase/fib_test"],
    },
  ]),

  ...mutantsOf("netbase/rib.ts", ["unit/netbase/fib_test"], [
    {
      name: "rib: an appended route goes first",
      in: "Rib.add",
      from: "append ? place.last : place.before",
      to: "place.before",
    },
    {
      name: "rib: a removed route is still painted",
      in: "Rib.remove",
      from: "this.touch(node);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/rings.ts", ["unit/net/xdp_socket"], [
    {
      name: "rings: frames that a fill did not take are lost",
      in: "XdpSocket.refill",
      from: "for (let i = most - 1; i >= taken; i--) this.#umem.give(this.#frames[i]);",
      to: "",
    },
    {
      name: "rings: a ring that is slow to send takes all free frames",
      in: "XdpSocket.refill",
      from: "Math.min(this.#transmitting, this.#fill >>> 1)",
      to: "0",
    },
    {
      name: "rings: a ring that is slow to send is left with none to receive in",
      in: "XdpSocket.refill",
      from: "Math.min(this.#transmitting, this.#fill >>> 1)",
      to: "this.#transmitting",
    },
    {
      name: "rings: frames on their way do not count",
      in: "XdpSocket.room",
      from: " - this.#transmitting",
      to: "",
    },
    {
      name: "rings: what the kernel did not take is sent twice or never",
      in: "XdpSocket.flush",
      from:
        "if (this.#queued > 0) this.queue.copyWithin(0, 2 * taken, 2 * (taken + this.#queued));",
      to: "",
      tests: ["unit/net/xdp_socket", "unit/net/tile_test", "unit/net/transmit"],
    },
    {
      name: "rings: sent frames are lost",
      in: "XdpSocket.complete",
      from: "if (taken < count) this.#umem.giveFrames(frames, taken, count);",
      to: "",
    },
    {
      name: "rings: it sleeps while frames wait for room",
      in: "XdpSocket.unfinished",
      from: "return this.#queued > 0;",
      to: "return false;",
      tests: ["unit/net/tile_test"],
    },
  ]),

  ...mutantsOf("tiles/net/rings.ts", ["unit/net/umem"], [
    {
      name: "rings: frames come back with where their headers began",
      in: "Umem.giveFrames",
      from: "offsets[i] & mask",
      to: "offsets[i]",
    },
    {
      name: "rings: large buffers come back with where their payload began",
      in: "Umem.give",
      from: "this.#large[this.#freeLarge++] = offset - into;",
      to: "this.#large[this.#freeLarge++] = offset;\n      void into;",
    },
    {
      name: "rings: a frame that is not there is handed out",
      in: "Umem.takeFrame",
      from: "this.#freeFrames === 0 ? -1 : ",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/rx.ts", ["unit/net/receive", "unit/net/mutants"], [
    {
      name: "rx: an odd frame's IPv4 checksum is not looked at",
      in: "Receiver.#checkPacket",
      from: "fold(sumWords(this.#words, ip >>> 2, IPV4_BYTES)) !== 0xffff",
      to: "false",
    },
    {
      name: "rx: a packet may be longer than its frame",
      in: "Receiver.#checkPacket",
      from: "total < IPV4_BYTES || total > room",
      to: "total < IPV4_BYTES",
    },
    {
      name: "rx: fragments reach apps",
      in: "Receiver.#checkPacket",
      from:
        "if ((this.#words[(ip >>> 2) + 1] & FRAGMENT_BITS) !== 0) return COUNT.rx_drop_fragment;",
      to: "",
    },
    {
      name: "rx: of known peers fragments reach apps",
      in: "Receiver.#passOrdinary",
      from: "fold(sum) ^ 0xffff | words[w + 1] & FRAGMENT_BITS |",
      to: "fold(sum) ^ 0xffff |",
    },
    {
      name: "rx: of known peers the IPv4 checksum is not looked at",
      in: "Receiver.#passOrdinary",
      from: "fold(sum) ^ 0xffff | words",
      to: "words",
    },
    {
      name: "rx: a datagram may be longer than its packet",
      in: "Receiver.#checkDatagram",
      from: "length < UDP_BYTES || length > packets[p + Packet.length]",
      to: "length < UDP_BYTES",
    },
    {
      name: "rx: a UDP length below its header is taken",
      in: "Receiver.#checkDatagram",
      from: "length < UDP_BYTES || ",
      to: "",
    },
    {
      name: "rx: UDP checksums of known peers are not looked at",
      in: "Receiver.#sumPayloads",
      from: "if (fold(sum) === 0xffff) continue;",
      to: "if (fold(sum) >= 0) continue;",
    },
    {
      name: "rx: what comes from our own address is answered",
      in: "Receiver.#checkAddresses",
      from: "isPeer(peer) && from !== RTN_LOCAL",
      to: "isPeer(peer)",
    },
    {
      name: "rx: what comes from a broadcast address is answered",
      in: "Receiver.#checkAddresses",
      from: "isHost && from !== RTN_BROADCAST &&",
      to: "isHost &&",
    },
    {
      name: "rx: an address that is no longer ours goes on being ours",
      in: "Receiver.#check",
      from: "this.#own = 0;",
      to: "",
    },
    {
      name: "rx: frames with tags that nobody has reach apps",
      in: "Receiver.#untag",
      from: "if (device < 0) return -COUNT.rx_drop_unknown_vlan;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/tx.ts", ["unit/net/transmit"], [
    {
      name: "transmit: an app sends what stands behind its memory",
      in: "Transmitter.#classify",
      from: "offset > memoryBytes - length",
      to: "offset > memoryBytes",
      tests: ["unit/net/transmit", "unit/net/hostile_app"],
    },
    {
      name: "transmit: an app sends from the port of another",
      in: "Transmitter.#classify",
      from: "!dispatch.serves(index, ports & 0xffff)",
      to: "false",
      tests: ["unit/net/hostile_app"],
    },
    {
      name: "transmit: an answer goes to port 0",
      in: "Transmitter.#classify",
      from: "} else if (ports >>> 16 === 0) {",
      to: "} else if (ports < -1 && ports > 0) {",
      tests: ["unit/net/transmit", "unit/net/reflect_test"],
    },
    {
      name: "transmit: TOS and TTL are not in the header's checksum",
      in: "writePacketHeader",
      from: " + total + tosTtl",
      to: " + total + 64",
      tests: ["unit/net/tx_headers"],
    },
    {
      name: "transmit: an app's TTL of 0 leaves",
      in: "Transmitter.#read",
      from: "(tosTtl & 0xff) === 0 ? tosTtl | USUAL_TOS_TTL : tosTtl",
      to: "tosTtl",
      tests: ["unit/net/transmit"],
    },
    {
      name: "transmit: a bare pseudo-header sum leaves with a request that is sent back",
      in: "Transmitter.#turnRound",
      from: " ||\n        packets[p + Packet.sum] === CHECKSUM_PARTIAL",
      to: "",
      tests: ["unit/net/reflect_test"],
    },
    {
      name: "transmit: it is not asked again whether an app may send a request back",
      in: "Transmitter.#turnRound",
      from: "(routes[(r & MOST_WORDS) + Route.checked] & bits) !== checked",
      to: "bits < checked - bits",
      tests: ["unit/net/app_peers", "unit/net/reflect_test"],
    },
    {
      name: "transmit: it is not asked again whether an app may send somewhere",
      in: "Transmitter.#classify",
      from: " ||\n          (routes[(r & MOST_WORDS) + Route.checked] & bits) !== checked",
      to: " || bits < checked - bits",
      tests: ["unit/net/transmit", "unit/net/app_peers", "unit/net/reflect_test"],
    },
    {
      name: "transmit: an app writes over what a kernel socket has yet to send",
      in: "Transmitter.burst",
      from: "this.#sockets.flush();\n    app.release(count);",
      to: "app.release(count);",
      tests: ["unit/net/transmit", "unit/net/tile_test"],
    },
    {
      name: "transmit: frames that a full ring refused are lost",
      in: "Transmitter.#sendOthers",
      from: "this.#umem.give(packets[p + Packet.frame]);",
      to: "void r;",
      tests: ["unit/net/transmit", "unit/net/reflect_test"],
    },
    {
      name: "transmit: what is dropped is not counted",
      in: "Transmitter.#drop",
      from: "this.#counters[counter]++;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/handover.ts", ["unit/net/handover"], [
    {
      name: "handover: a record is good for ever",
      in: "FrameRecord.take",
      from: "Atomics.exchange(this.#words, VALID, 0)",
      to: "Atomics.load(this.#words, VALID)",
    },
    {
      name: "handover: frames that are out with apps are not in the record",
      in: "FrameRecord.write",
      from: "for (const app of apps) app.forEachHeld(add);",
      to: "",
    },
    {
      name: "handover: frames that are out with apps are free, too",
      in: "takeOver",
      from: "free[index] = 0;",
      to: "",
    },
    {
      name: "handover: a frame is an app's though the kernel has it",
      in: "takeOver",
      from: "if (free[index] !== 1) return false;",
      to: "",
    },
    {
      name: "handover: frames that do not add up are taken over",
      in: "takeOver",
      from: "held + others !== umem.frameCount",
      to: "false",
    },
    {
      name: "handover: a kernel that keeps frames is not waited for",
      in: "invisible",
      from: "!xdpSockets.every((socket) => socket.isSettled())",
      to: "false",
    },
    {
      name: "handover: frames that came into a ring meanwhile are not seen",
      in: "invisible",
      from: "  look();\n  return frames;",
      to: "  return frames;",
    },
    {
      name: "handover: frames that left a ring meanwhile are not seen",
      in: "invisible",
      from: "  look();\n  for (let polls",
      to: "  for (let polls",
    },
  ]),
  ...mutantsOf("tiles/net/tile.ts", ["unit/net/handover"], [
    {
      name: "net tile: what waits for a neighbour is lost when it leaves",
      in: "NetTile.relinquish",
      from: "this.#transmitter.queue.clear();",
      to: "",
    },
    {
      name: "net tile: what an app has reserved is lost when it leaves",
      in: "NetTile.relinquish",
      from: "for (const app of this.#inline) app.relinquish();",
      to: "",
    },
    {
      name: "net tile: what there is no room for is lost when it leaves",
      in: "NetTile.relinquish",
      from: "this.#counters[NET.index.tx_drop_ring_full] +=",
      to: "void",
    },
    {
      name: "net tile: does not wait for its predecessor",
      in: "createBeside",
      from: "await context.predecessor(opened.descriptors);",
      to: "void context.predecessor(opened.descriptors);",
    },
    {
      name: "net tile: totals begin anew with new sockets",
      in: "NetTile.#countStatistics",
      from: "before[i] = this.#counters[counter];",
      to: "before[i] = 0;",
    },
  ]),
  ...mutantsOf("tiles/net/app_link.ts", ["unit/net/handover", "unit/net/app_link"], [
    {
      name: "app port: a successor does not know what was taken back",
      in: "AppLink.#takeBack",
      from: "this.#state[State.reclaimed] = this.#reclaimed;",
      to: "",
    },
    {
      name: "app port: a successor does not count large buffers that are out",
      in: "AppLink.resume",
      from: "else if (this.#umem.isLarge(offset)) this.largeOut++;",
      to: "",
    },
    {
      name: "app port: a successor copies over payloads that are being read",
      in: "AppLink.constructor",
      from: "if (!continues || pushed === reclaimed) return;",
      to: "if (continues) return;",
    },
  ]),
  ...mutantsOf("tiles/net/app_link.ts", [
    "unit/net/recent_peers",
    "unit/netbase/stranger_tables",
  ], [
    {
      name: "recent peers: a successor searches its predecessor's addresses by another key",
      in: "RecentPeers.constructor",
      from: "if (words[KEY_AT + 1] !== 0) return;",
      to: "",
    },
    {
      name: "recent peers: a successor forgets later than it should",
      in: "RecentPeers.constructor",
      from: "const words = this.#words = i32(view);",
      to: "const words = this.#words = i32(view);\n    words[COUNT] = 0;",
    },
    {
      name: "recent peers: addresses are not mixed with a seed",
      in: "RecentPeers.#hash",
      from: "return hash(0, address, words[KEY_AT], words[KEY_AT + 1], words[KEY_AT + 2]);",
      to: "void words;\n    return hash(0, address, 1, 3, 5);",
    },
    {
      name: "recent peers: who asked just now is unknown where others have all its places",
      in: "RecentPeers.add",
      from: "words[this.#slot(half, first + this.#victim++ % PROBES)] = address;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/tx.ts", ["unit/net/reflect_test"], [
    {
      name: "transmit: in a burst a request from port 0 is sent back to it",
      in: "Transmitter.#turnRound",
      from: "if (ports >>> 16 === 0) break;",
      to: "",
    },
    {
      name: "transmit: more goes onto a ring than it takes",
      in: "Transmitter.#write",
      from: "socket.room === 0",
      to: "socket.room < 0",
      tests: ["unit/net/transmit", "unit/net/tile_test"],
    },
    {
      name: "transmit: more is sent back than a ring takes",
      in: "Transmitter.#turnRound",
      from: "if (queued === full) break;",
      to: "",
      tests: ["unit/net/reflect_crowd"],
    },
  ]),

  ...mutantsOf("tiles/net/arp_queue.ts", ["unit/net/arp_queue_test"], [
    {
      name: "ARP queue: strangers push gateways out",
      in: "ArpQueue.#displace",
      from: "lowest <= rank",
      to: "lowest < RANKS",
    },
    {
      name: "ARP queue: one neighbour fills the queue",
      in: "ArpQueue.add",
      from:
        "if (neighbor !== NONE && this.#waiting[neighbor] >= this.#most(this.#rank[neighbor])) {",
      to: "if (false) {",
    },
    {
      name: "ARP queue: the order of datagrams is lost",
      in: "ArpQueue.add",
      from: "this.#last[neighbor] = at;",
      to: "",
    },
    {
      name: "ARP queue: who was displaced is displaced again",
      in: "ArpQueue.#strike",
      from: "this.#slot[moved] = this.#slot[neighbor];",
      to: "void moved;",
    },
  ]),

  ...mutantsOf("tiles/net/sockets.ts", ["unit/net/arp_release"], [
    {
      name: "socket sender: frames of what goes to the kernel's socket are lost",
      in: "SocketSender.#finish",
      from: "if (isInUmem) this.#umem.give(this.#batch[at + UdpDescriptor.offset]);",
      to: "void isInUmem;",
    },
    {
      name: "socket sender: a frame is free before the kernel's socket has sent it",
      in: "SocketSender.send",
      from: "const at = this.#count++ * UDP_DESCRIPTOR_WORDS;",
      to:
        "const at = this.#count++ * UDP_DESCRIPTOR_WORDS;\n    if (memory === this.#umem.bytes) this.#umem.give(packet[Packet.offset]);",
      tests: ["unit/net/arp_release", "unit/net/reflect_test"],
    },
  ]),

  ...mutantsOf("tiles/net/tx.ts", ["unit/net/arp_release"], [
    {
      name: "ARP queue: frames of what is dropped are lost",
      in: "Transmitter.constructor",
      from: "this.#umem.give(packet[Packet.frame]);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/arp_queue.ts", ["unit/net/arp_release"], [
    {
      name: "ARP queue: nothing ever expires",
      in: "ArpQueue.clock",
      from: "this.#expire(nowMillis);",
      to: "",
    },
    {
      name: "ARP queue: who is waited for is asked for once only",
      in: "ArpQueue.clock",
      from: "if (nowMillis >= this.#remindAt) this.#remind(nowMillis);",
      to: "",
    },
    {
      name: "ARP queue: the tile sleeps over the end of what waits",
      in: "ArpQueue.nextDue",
      from: "due = Math.min(due, this.#deadline[this.#first[this.#ranked[rank][i]]]);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/tile.ts", ["unit/net/tile_test"], [
    {
      name: "net tile: what netbase has become is not seen before a sleep",
      in: "NetTile.pending",
      from: " || this.#overtaken()",
      to: "",
    },
    {
      name: "net tile: answers are not seen before a sleep",
      in: "NetTile.pending",
      from: "app.answers.available() > 0",
      to: "app.answers.available() < 0",
    },
    {
      name: "net tile: what is in the cache is gone by after a change of netbase",
      in: "NetTile.#refresh",
      from: "this.#cache.clear();",
      to: "",
      tests: ["unit/net/tile_test", "unit/net/transmit"],
    },
    {
      name: "net tile: the app is not told of what came",
      in: "NetTile.turn",
      from: "for (let i = 0; i < apps.length; i++) apps[i].publish();",
      to: "",
    },
    {
      name: "net tile: kernel sockets starve while frames come",
      in: "NetTile.#receiveSockets",
      from: "if (!set.full && this.#worked && ++this.#turns >= POLL_TURNS) {",
      to: "if (false) {",
    },
    {
      name: "net tile: kernel sockets starve beyond those that one look finds",
      in: "NetTile.#receiveSockets",
      from: "if (set.full) set.poll();",
      to: "",
    },
    {
      name: "net tile: what waited goes after what is newer",
      in: "NetTile.#refresh",
      from: "this.#transmitter.releaseAll();",
      to: "",
      tests: ["unit/net/arp_release"],
    },
  ]),

  ...mutantsOf("tiles/net/app_link.ts", ["unit/net/app_link"], [
    {
      name: "app port: frames come back while an answer may still name them",
      in: "AppLink.reclaim",
      from: "if (this.#untaken === 0) count += this.#takeBack();",
      to: "count += this.#takeBack();",
      tests: ["unit/net/app_link", "unit/net/reflect"],
    },
    {
      name: "app port: a request is sent back twice from one frame",
      in: "AppLink.takeRequest",
      from: "out[at + Out.offset] = -1;",
      to: "",
      tests: ["unit/net/app_link", "unit/net/reflect_test"],
    },
    {
      name: "app port: an app names requests that it does not have",
      in: "AppLink.#isOut",
      from: "place <= mask && ((place - this.#reclaimed) & mask) < this.outstanding",
      to: "place <= mask",
      tests: ["unit/net/app_link", "unit/net/reflect_test"],
    },
    {
      name: "app port: an answer to a request that is not there goes where it says",
      in: "AppLink.answerTo",
      from: "if (!this.#isOut(place)) return false;",
      to: "if (!this.#isOut(place)) return true;",
      tests: ["unit/net/hostile_app"],
    },
    {
      name: "app port: a copy takes along what is behind the payload",
      in: "Copies.copy",
      from: "frames[from] & ((1 << (rest << 3)) - 1)",
      to: "frames[from]",
      tests: ["unit/net/payloads"],
    },
    {
      name: "app port: a payload without room is handed over",
      in: "AppLink.push",
      from: "if (seen < 0) break;",
      to: "",
      tests: ["unit/net/app_link"],
    },
    {
      name: "app port: a full link takes one more",
      in: "AppLink.push",
      from: "Math.min(end, from + room)",
      to: "end",
      tests: ["unit/net/tile_test"],
    },
    {
      name: "app port: a sleeping app is not woken",
      in: "AppLink.publish",
      from: "if (this.#requests.publish()) this.#waker.published();",
      to: "this.#requests.publish();",
    },
  ]),

  ...mutantsOf("tiles/net/route_cache.ts", ["unit/net/transmit"], [
    {
      name: "resolve: an interface that is down is sent by",
      in: "Resolver.#egress",
      from: "interfaceRecord < 0 || !interfaces.isUp(interfaceRecord)",
      to: "interfaceRecord < 0",
    },
    {
      name: "resolve: from an address that is not ours is sent",
      in: "Resolver.#egress",
      from: "local !== 0 && nextHops.kind(fib.lookup(local)) !== route.RTN_LOCAL",
      to: "false",
    },
    {
      name: "resolve: a neighbour whose confirmation runs out is not asked for",
      in: "Resolver.confirm",
      from: "this.#solicits.ask(neighbors.ifindex(record), neighbors.address(record) | 0);",
      to: "",
      tests: ["unit/net/reflect_test"],
    },
  ]),

  ...mutantsOf("tiles/net/arp_queue.ts", ["unit/net/solicits"], [
    {
      name: "solicits: one neighbour is asked for with every datagram",
      in: "Solicits.ask",
      from: "this.#asked[at] = this.#now;",
      to: "",
    },
    {
      name: "solicits: nobody is ever acquainted",
      in: "Solicits.ask",
      from: "this.#window[bit >>> 5] |= 1 << (bit & 31);",
      to: "void bit;",
    },
  ]),

  ...mutantsOf("tiles/net/sockets.ts", ["unit/net/socket_sender"], [
    {
      name: "socket sender: an error costs all that come after it",
      in: "SocketSender.flush",
      from: "if (taken === 0) break;",
      to: "if (taken <= 0) break;",
    },
    {
      name: "socket sender: what the kernel refuses is not counted",
      in: "SocketSender.flush",
      from: "this.#counters[NET.index.tx_drop_socket_error] += refused;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/net/sockets.ts", ["unit/net/tile_test"], [
    {
      name: "socket receiver: broadcasts are answered",
      in: "SocketReceiver.#deliver",
      from: "if (this.#isMany(packets[p + Packet.local])) return NET.index.rx_drop_not_local;",
      to: "",
    },
    {
      name: "socket receiver: one app keeps all large buffers",
      in: "SocketReceiver.#place",
      from: "if (app.largeOut >= this.#share) return -1;",
      to: "",
    },
    {
      name: "socket receiver: buffers of a full link are lost",
      in: "SocketReceiver.#deliver",
      from: "this.#umem.give(offset);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/netlink/tile.ts", ["netns/netlink/wakes"], [
    {
      name: "netlink tile: sleeping net tiles are not woken by a new generation",
      in: "create",
      from: "for (const waker of wakers) waker.published();",
      to: "",
    },
    {
      name: "netlink tile: net tiles are woken though nothing has changed",
      in: "create",
      from: "if (announced === writer.generation) return;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/netlink/tables.ts", ["unit/netlink/interfaces"], [
    {
      name: "mirror: routes stay whose preferred source is gone",
      in: "InterfacesTable.#addressGone",
      from: "if (!elsewhere) this.#routes.sourceGone(local);",
      to: "void local;",
    },
    {
      name: "mirror: routes go though their preferred source is elsewhere",
      in: "InterfacesTable.#addressGone",
      from: "if (!elsewhere) this",
      to: "this",
    },
    {
      name: "mirror: routes stay by an interface that lost its last address",
      in: "InterfacesTable.#addressGone",
      from: "if (left === 0) this.#routes.deviceDown(ifindex, { force: true });",
      to: "",
    },
    {
      name: "mirror: routes stay by an interface that is down",
      in: "InterfacesTable.#linkChanged",
      from: "if (wentDown) this.#routes.deviceDown(ifindex, { force: false });",
      to: "",
    },
    {
      name: "mirror: routes stay by an interface that is gone",
      in: "InterfacesTable.#linkGone",
      from: "this.#routes.deviceGone(ifindex);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/netlink/mirror.ts", ["unit/netlink/change_log"], [
    {
      name: "change log: what does not fit is lost without a word",
      in: "ChangeLog.#grow",
      from:
        "if (needed > MOST_BYTES) this.overflowed = true;\n    if (this.overflowed) return false;",
      to: "if (needed > MOST_BYTES) return false;",
    },
    {
      name: "change log: an overflow is never forgotten",
      in: "ChangeLog.clear",
      from: "this.overflowed = false;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/netlink/mirror.ts", ["unit/netlink/resync"], [
    {
      name: "resync: a read is whole though events beside it were lost",
      in: "Resync.#ended",
      from: 'else if (this.#events.overflowed) this.#failed(schedule, "damaged", now);',
      to: "",
    },
  ]),

  ...mutantsOf("tiles/netlink/neighbor_resolver.ts", ["unit/netlink/neighbor_resolver"], [
    {
      name: "resolver: the rate limit is never spent",
      in: "NeighborResolver.#solicitUnknown",
      from: "this.#tokens--;",
      to: "",
    },
    {
      name: "resolver: a flood fills the kernel's table",
      in: "NeighborResolver.#most",
      from: "Math.min(this.#mostOutstanding, this.#room)",
      to: "Infinity",
    },
    {
      name: "resolver: who does not answer is asked for again at once",
      in: "NeighborResolver.#fail",
      from: "this.#backOff.set(ifindex, address, { until, failures: failures + 1 });",
      to: "void [until, failures];",
    },
    {
      name: "resolver: entries without answer stay in the kernel's table",
      in: "NeighborResolver.neighborChanged",
      from: "if (state === NUD_FAILED) this.#kernel.release(ifindex, address);",
      to: "",
    },
    {
      name: "resolver: routers wait with all others",
      in: "NeighborResolver.resolve",
      from: "isGateway ? GATEWAY : demand",
      to: "demand",
    },
  ]),

  ...mutantsOf("tiles/netlink/neighbor_resolver.ts", ["unit/netlink/neighbor_ageing"], [
    {
      name: "ageing: nobody is marked when the time has come",
      in: "NeighborAgeing.turn",
      from: "if (this.#neighbors.wantRefresh(ifindex, address)) marked++;",
      to: "void marked;",
    },
    {
      name: "ageing: a stale neighbour is not asked for",
      in: "NeighborAgeing.neighborChanged",
      from: "if (state === NUD_STALE) this.#neighbors.wantRefresh(ifindex, address);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/netlink/xdp_filter.ts", ["unit/netlink/filters"], [
    {
      name: "filters: an address that is gone stays in the XDP program",
      in: "filterUpdater",
      from: "if (!addresses.has(address)) filter.remove(address);",
      to: "",
    },
    {
      name: "filters: VLAN devices that are down have their frames",
      in: "vlansOn",
      from: "link === ifindex && (flags & IFF_UP) !== 0",
      to: "link === ifindex && flags >= 0",
    },
  ]),

  ...mutantsOf("tiles/netlink/audit.ts", ["unit/netlink/audit"], [
    {
      name: "audit: what an event has named counts as a difference",
      in: "makeAudit",
      from: "mirror.watchEvents((message, now) => resync.event(message, now));",
      to: "",
    },
    {
      name: "audit: a difference is not mended",
      in: "makeAudit",
      from: "mirror.resync(undefined, now);",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/app/host.ts", ["unit/app/net_side"], [
    {
      name: "app: a sleeping net tile is not woken by an answer",
      in: "NetSide.finish",
      from: "if (published) this.#waker.published();",
      to: "void published;",
    },
    {
      name: "app: a burst is passed before its answers are published",
      in: "NetSide.finish",
      from: "const published = this.#producer.publish();\n" +
        "    if (this.#taken > 0) this.#consumer.release(this.#taken);",
      to: "if (this.#taken > 0) this.#consumer.release(this.#taken);\n" +
        "    const published = this.#producer.publish();",
    },
    {
      name: "app: what it answers without room is not counted",
      in: "Replies.#noRoom",
      from: "this.#counters[COUNT.tx_drop_reply_link_full]++;",
      to: "",
    },
    {
      name: "app: an answer is longer than its room",
      in: "Replies.#slot",
      from: "checkWithin(offset, size, { at: this.#at, room });",
      to: "",
      tests: ["unit/app/net_side", "unit/net/app_misuse"],
    },
  ]),

  ...mutantsOf("tiles/app/host.ts", ["unit/app/net_side"], [
    {
      name: "app: a request's length is believed",
      in: "Requests.size",
      from: "size <= LARGEST_PAYLOAD ? size : 0",
      to: "size",
    },
    {
      name: "app: a request's place is believed",
      in: "Requests.offset",
      from: "offset <= this.bytes.length - PAYLOAD_MARGIN ? offset : 0",
      to: "offset",
    },
  ]),

  ...mutantsOf("tiles/app/host.ts", ["unit/app/service"], [
    {
      name: "service: an error ends the app's burst",
      in: "Service.receive",
      from: "if (requests.left === 0) return;",
      to: "return;",
    },
    {
      name: "service: an error costs the datagram after it, too",
      in: "Service.receive",
      from: "if (requests.left === before) requests.next();",
      to: "void before;\n      requests.next();",
    },
    {
      name: "service: errors are not counted",
      in: "Service.#failed",
      from: "this.#host.counters[APP.index.errors]++;",
      to: "",
    },
    {
      name: "service: an error is logged each time",
      in: "Service.#say",
      from: "if (this.#seen.has(kind)) return;",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/app/host.ts", ["unit/app/refusals"], [
    {
      name: "refusals: the last port of a range is answered",
      in: "refusals",
      from: "ports.fill(REFUSED_PORT, first, last + 1)",
      to: "ports.fill(REFUSED_PORT, first, last)",
    },
    {
      name: "refusals: two of our own ports answer each other for ever",
      in: "refusals",
      from: "for (const port of served) ports[port] |= SERVED_PORT;",
      to: "",
    },
    {
      name: "refusals: answers to one port are not bounded",
      in: "RecentAnswers.take",
      from: "words[at + Word.count]++;",
      to: "",
    },
  ]),

  ...mutantsOf("apps/dns/dns.ts", ["unit/apps/dns_rate"], [
    {
      name: "dns: what is limited is dropped, never truncated",
      in: "RateLimit.judge",
      from: "const limited = ++words[at + Word.limited];",
      to: "const limited = 1;",
    },
    {
      name: "dns: a flood is answered",
      in: "RateLimit.judge",
      from: "const count = ++words[at + Word.count];",
      to: "const count = words[at + Word.count];",
    },
  ]),

  ...mutantsOf("apps/dns/answer.ts", ["unit/apps/dns_test"], [
    {
      name: "dns: an answer is answered",
      in: "Question.read",
      from: "size < HEADER_BYTES || (bytes[offset + 2] & RESPONSE) !== 0",
      to: "size < HEADER_BYTES",
    },
  ]),

  ...mutantsOf("apps/ntp.ts", ["unit/apps/ntp"], [
    {
      name: "ntp: an answer is answered",
      in: "create",
      from: "(bytes[offset] & 7) !== CLIENT || ",
      to: "",
    },
    {
      name: "ntp: a clock that nobody keeps is told as kept",
      in: "create",
      from: "state.synchronised ? referenceId",
      to: "true ? referenceId",
    },
  ]),

  ...mutantsOf("tiles/status/connections.ts", ["unit/status/connections"], [
    {
      name: "connections: closed ones are counted for ever",
      in: "serveConnections",
      from: "open.delete(connection);\n        connection.close();",
      to: "connection.close();",
    },
    {
      name: "connections: they are not bounded in number",
      in: "serveConnections",
      from: "open.size > most",
      to: "open.size < 0",
    },
  ]),

  ...mutantsOf("master/health.ts", ["unit/master/health"], [
    {
      name: "health: what is interrupted goes on",
      in: "healthMonitor",
      from: "held = holding;",
      to: "for (const [key, since] of holding) held.set(key, since);",
    },
    {
      name: "health: what was counted before it is looked at has just happened",
      in: "healthMonitor",
      from: "{ count, recent: [] }",
      to: "{ count: 0, recent: [] }",
    },
  ]),

  ...mutantsOf("tiles/status/metrics.ts", ["unit/status/metrics"], [
    {
      name: "probes: what the master said is good for ever",
      in: "probe",
      from: "report === null || !health.isFresh(performance.now())",
      to: "report === null",
    },
    {
      name: "probes: unwell is ready",
      in: "probe",
      from: 'state === "ready"',
      to: 'state !== "starting"',
    },
    {
      name: "metrics: labels are not quoted",
      in: "labelsText",
      from: "${quote(value)}",
      to: "${value}",
    },
  ]),

  ...mutantsOf("cli/main.ts", ["unit/cli/main"], [
    {
      name: "cli: without a command all is well",
      in: "run",
      from: "return Exit.usage;",
      to: "return Exit.ok;",
    },
    {
      name: "cli: an abbreviation that fits several is taken for the first",
      in: "nameOf",
      from: " && others.length === 0",
      to: "",
    },
  ]),

  ...mutantsOf("tiles/runtime/plan.ts", ["unit/runtime/permissions"], [
    {
      name: "permissions: a path with a comma allows two others",
      in: "permissionFlags",
      from: 'all.find((each) => each.includes(","))',
      to: "all.find(() => false)",
    },
  ]),

  ...mutantsOf("tiles/netlink/xdp_filter.ts", ["unit/netlink/xdp_filter"], [
    {
      name: "filter: the map may take an address twice",
      in: "Filter.add",
      from: "if (this.#find(address) >= 0) return true;",
      to: "",
    },
    {
      name: "filter: ports that are no longer ours stay ours",
      in: "setBits",
      from: "words[i] = wanted[i];",
      to: "words[i] |= wanted[i];",
    },
  ]),

  ...mutantsOf("ffi/tile.c", ["unit/ffi/tile_test"], [
    {
      name: "confinement: landlock is not applied",
      tests: ["netns/master/confinement"],
      in: "forbid_files",
      from: "error = result(syscall(SYS_landlock_restrict_self, fd, 0));",
      to: "error = 0;",
    },
    {
      name: "confinement: any anonymous inode is taken for an eventfd",
      in: "list_eventfds",
      from: 'strcmp(target, "anon_inode:[eventfd]") == 0',
      to: 'strncmp(target, "anon_inode:", 11) == 0',
    },
  ]),

  ...mutantsOf("ffi/policy.h", ["unit/ffi/tile_test"], [
    {
      name: "confinement: capabilities stay",
      in: "keep_capabilities",
      from: "data[i].permitted &= (uint32_t)(keep >> 32 * i);",
      to: "(void)keep;",
    },
    {
      name: "confinement: capabilities may come back",
      in: "bound_capabilities",
      from: "prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0",
      to: "0",
    },
    {
      name: "confinement: files may be mapped",
      in: "allow_anonymous_mmap",
      from: "emit(p, BPF_JMP | BPF_JSET | BPF_K, 0, 1, MAP_ANONYMOUS);",
      to: "emit(p, BPF_JMP | BPF_JSET | BPF_K, 0, 0, MAP_ANONYMOUS);",
    },
    {
      name: "confinement: every socket is a tile's own",
      in: "make_policy",
      from: "allow_ranges(p, NET_CALLS, COUNT(NET_CALLS), fds, count);",
      to: "allow(p, NET_CALLS, COUNT(NET_CALLS));",
    },
    {
      name: "confinement: a descriptor between two of a tile's is its own",
      in: "answer_ranges",
      from: "fds[next] <= fds[next - 1] + 1",
      to: "fds[next] <= fds[next - 1] + 2",
    },
  ]),

  ...mutantsOf("ffi/region.c", ["unit/ffi/region"], [
    {
      name: "region: readers have a descriptor that can write",
      in: "tegula_region_create",
      from: "open(path, O_RDONLY | O_CLOEXEC)",
      to: "open(path, O_RDWR | O_CLOEXEC)",
    },
    {
      name: "region: another user opens a reader's descriptor anew for writing",
      in: "tegula_region_create",
      from: "fchmod(fd, S_IRUSR) < 0 || ",
      to: "",
    },
  ]),

  ...mutantsOf("ffi/region.ts", ["unit/ffi/region"], [
    {
      name: "region: readers may write",
      in: "openRegions",
      from: "const protection = readOnly ? PROT_READ : PROT_READ | PROT_WRITE;",
      to: "const protection = PROT_READ | PROT_WRITE;",
    },
  ]),

  ...mutantsOf("master/app_process.ts", ["netns/app/process"], [
    {
      name: "app: what ended it is handed to each of its successors",
      in: "TileChild.wasBarren",
      from: "return { byItself: !this.isKilledByOthers };",
      to: "return null;",
    },
  ]),
];
