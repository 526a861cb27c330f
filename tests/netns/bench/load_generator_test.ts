// SPDX-License-Identifier: Apache-2.0
/**
 * The benchmarks' load generator tells right answers from wrong ones: figures of a service that answers
 * nonsense would be worth nothing.
 */

import { strict as assert } from "node:assert";
import { queryFile } from "../../../bench/dns_zone.ts";
import { buildPrograms } from "../../../bench/programs.ts";
import { processorSeconds } from "../../../bench/processes.ts";
import { ADDRESS, INTERFACE, Track } from "../../../bench/track.ts";
import { temporaryFile } from "../config_file.ts";
import { labTest } from "../lab.ts";

const ASKED = { port: 7, window: 64, millis: 1000 };

/** A UDP service in Deno that answers `payload`, the request, with `expression`. */
function service(expression: string): string[] {
  const program = `
    const socket = Deno.listenDatagram({ transport: "udp", hostname: "${ADDRESS}", port: 7 });
    console.log("ready");
    for await (const [payload, peer] of socket) await socket.send(${expression}, peer);`;
  const path = temporaryFile(program, ".ts");
  return [Deno.execPath(), "run", "--no-check", "--allow-net", "--unstable-net", path];
}

labTest(
  "the load generator counts an echo's answers, from few peers and from many",
  async (lab) => {
    const track = await Track.lay(lab, await buildPrograms());
    const { echo_af_xdp, object } = track.programs;
    await track.during([echo_af_xdp, object, INTERFACE, "7", "poll"], async ({ pid }) => {
      const before = processorSeconds(pid);
      for (const peers of [1, 10_000]) {
        const load = await track.load({ ...ASKED, peers });
        assert.ok(load.answered > 1000 && load.answered <= load.sent, JSON.stringify(load));
      }
      const alone = await track.load({ ...ASKED, window: 1 });
      assert.ok(alone.p50! > 500 && alone.p99! >= alone.p50!, JSON.stringify(alone));
      assert.ok(processorSeconds(pid) > before, "the echo has used the processor");
    });
  },
);

labTest("the load generator refuses answers that are not the request", async (lab) => {
  const track = await Track.lay(lab, await buildPrograms());
  for (const wrong of ["payload.fill(1, 2, 3)", "payload.slice(0, 17)", "new Uint8Array(18)"]) {
    await track.during(service(wrong), async () => {
      await assert.rejects(track.load(ASKED), /wrong answers, or none: .*"mismatched":[1-9]/);
    });
  }
});

labTest(
  "the load generator wants DNS answers that are whole and about the question",
  async (lab) => {
    const track = await Track.lay(lab, await buildPrograms());
    const names = ["a.example.org", "b.example.org"].map((name) => ({ name, type: "A" }));
    const queries = temporaryFile("");
    await Deno.writeFile(queries, queryFile(names));
    const asked = { ...ASKED, queries };
    const flags = (third: number, fourth: number) =>
      `(payload[2] = ${third}, payload[3] = ${fourth}, payload)`;
    for (const right of [flags(0x80, 0), flags(0x84, 3)]) {
      const load = await track.during(service(right), () => track.load(asked));
      assert.ok(load.answered > 100, JSON.stringify(load));
    }
    const [query, truncated, refused] = [flags(0, 0), flags(0x82, 0), flags(0x80, 5)];
    const other = `(payload[2] = 0x80, payload[14]++, payload)`;
    for (const wrong of [query, truncated, refused, other]) {
      await track.during(service(wrong), async () => {
        await assert.rejects(track.load(asked), /wrong answers, or none: .*"mismatched":[1-9]/);
      });
    }
  },
);

labTest("the client counts what is lost, late and said twice, by port and phase", async (lab) => {
  const track = await Track.lay(lab, await buildPrograms());
  // Of each ten requests to the first port one is dropped, one answered late, one twice.
  const program = `
    for (const port of [7, 8]) {
      const socket = Deno.listenDatagram({ transport: "udp", hostname: "${ADDRESS}", port });
      (async () => {
        for await (const [payload, peer] of socket) {
          const which = port === 7 ? new DataView(payload.buffer).getUint32(4, true) % 20 : 0;
          if (which === 2) continue;
          const answer = () => socket.send(payload, peer);
          if (which === 4) setTimeout(answer, 300);
          else answer();
          if (which === 6) answer();
        }
      })();
    }
    console.log("ready");`;
  const path = temporaryFile(program, ".ts");
  const start = [Deno.execPath(), "run", "--no-check", "--allow-net", "--unstable-net", path];
  const report = await track.during(start, async () => {
    const client = track.client({ port: 7, ports: 2, rate: 400 });
    await client.stdout.find("ready");
    for (const phase of ["one", "two"]) {
      await client.write(phase);
      await client.stdout.find(`began ${phase}`);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    await client.write("");
    await client.ended();
    return JSON.parse(client.stdout.all.at(-1)!);
  });
  assert.deepEqual(report.phases.map(({ name }: { name: string }) => name), ["one", "two"]);
  assert.equal(report.mismatched, 0);
  for (const { ports: [first, second] } of report.phases) {
    const tenth = first.sent / 10;
    assert.ok(first.sent > 100, JSON.stringify(report));
    for (const figure of [first.lost, first.duplicates]) {
      assert.ok(Math.abs(figure - tenth) <= 1, JSON.stringify(report));
    }
    assert.ok(first.latest >= 300, JSON.stringify(report));
    assert.deepEqual([second.lost, second.duplicates], [0, 0]);
  }
});
