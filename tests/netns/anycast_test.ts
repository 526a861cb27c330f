// SPDX-License-Identifier: Apache-2.0
/**
 * Many hosts with one address (docs/operating/anycast.md): three Tegulas behind a router, BIRD with the
 * files that operators get, and a client that counts each answer. `deno task bench anycast` measures
 * the same for longer, and accidents as well.
 */

import { strict as assert } from "node:assert";
import { Asker, drained } from "../../bench/anycast.ts";
import { AnycastTrack } from "../../bench/anycast_track.ts";
import { buildPrograms } from "../../bench/programs.ts";
import { mustRun } from "./bare_root.ts";
import { labTest } from "./lab.ts";

/** Requests a second. */
const RATE = 1000;

const packaging = (name: string) => new URL(`../../packaging/${name}`, import.meta.url).pathname;

labTest(
  "nothing is lost while each host is drained, restarted, reloaded and upgraded",
  async (lab) => {
    await using track = await AnycastTrack.lay(lab, await buildPrograms());
    const asker = await Asker.start(track, RATE);
    for (const [i, { service, namespace }] of track.hosts.entries()) {
      await asker.phase(`drain ${i}`, () =>
        drained(track, i, async () => {
          await service.command("undrain");
        }));
      await asker.phase(`restart ${i}`, () =>
        drained(track, i, async () => {
          // A drained host is the end of no route any more, but still answers.
          assert.equal((await namespace.ip("route show table 5353")).trim(), "");
          await service.restart();
        }));
      await asker.phase(`reload ${i}`, () => service.command("reload"));
      await asker.phase(`upgrade ${i}`, () => service.command("upgrade"));
    }
    // Requests are lost while routers get no notice. Otherwise this test could not see a loss.
    await asker.phase("silence", async () => {
      await track.silence(1, true);
      await track.routed([2, 3]);
    });
    const { phases, missed, mismatched } = await asker.stop();
    const lost = phases.map(({ name, ports: [seen] }) => [name, seen.lost]);
    const silence = phases.at(-1)!.ports[0];
    assert.ok(silence.lost > 0 && silence.lost < silence.sent, JSON.stringify(silence));
    assert.deepEqual({ missed, mismatched }, { missed: 0, mismatched: 0 });
    assert.deepEqual(lost.slice(0, -1), phases.slice(0, -1).map(({ name }) => [name, 0]));
  },
);

Deno.test("BIRD and FRR can read the files that operators get", () => {
  for (const name of ["bgp.conf", "ospf.conf", "router.conf"]) {
    mustRun(["bird", "-p", "-c", packaging(`bird/${name}`)]);
  }
  mustRun(["vtysh", "--dryrun", "--inputfile", packaging("frr/bgp.conf")]);
});
