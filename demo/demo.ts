// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula demo`: shows Tegula at work between new network namespaces, scene by scene.
 */

import {
  buildStage,
  ECHO_PORT,
  FAR_ADDRESS,
  HOST_ADDRESS,
  type Outcome,
  type Scene,
  SCENES,
  type Stage,
} from "./scenes.ts";
import { badEnd, enterLaboratory, insideLaboratory, Lab, OUTER_PID } from "./lab.ts";
import { command, Exit, selfCommand, UserError, VERSION, wholeNumber } from "../cli/command.ts";

export default command({
  name: "demo",
  usage: ["[OPTIONS]"],
  about: "Shows Tegula answering while the network changes, in new network namespaces. " +
    "Needs root, and changes nothing outside these namespaces.",
  options: {
    seconds: {
      type: "string",
      default: "14",
      value: "N",
      help:
        "duration of the traffic of all scenes together, 1 to 3600 (default 14); a scene takes at least " +
        "half a second",
    },
    json: { type: "boolean", default: false, help: "print one JSON object instead of text" },
    hold: {
      type: "boolean",
      default: false,
      help: "keep everything running at the end, until Ctrl-C",
    },
    provider: {
      type: "string",
      default: "auto",
      value: "auto|xdp|socket",
      help: "as for 'tegula run' (default auto)",
    },
  },
  status: "0 if every scene and the end of the appliance were as expected, else 1.",
}, async ({ values }, args) => {
  const seconds = wholeNumber(values.seconds, { option: "seconds", least: 1, most: 3600 });
  if (!insideLaboratory()) return await enterLaboratory([...selfCommand(), "demo", ...args]);
  // From here on this process is in namespaces that end with it.
  const { provider, json, hold } = values;
  const say = json ? () => {} : (line: string) => console.log(line);
  let holding = false;
  await using lab = new Lab();
  const stage = await buildStage(lab, {
    provider,
    sceneMillis: Math.max(SHORTEST_SCENE_MILLIS, seconds * 1000 / SCENES.length),
    onLine: (line) => holding && say(line),
  });
  say(opening(stage));
  const outcomes = await playScenes(stage, say);
  // If the appliance does not end with status 0, throw this error last.
  const end = hold ? null : await stage.appliance.stop().then(() => null, (error) => {
    if (error instanceof UserError) return error;
    throw error;
  });
  const summary = summarize(stage, { outcomes, end, provider });
  say(closing(summary));
  if (json) console.log(JSON.stringify(summary));
  if (hold) {
    holding = true;
    console.error(holdHelp());
    const status = await stage.appliance.process.ended();
    if (!status.success) throw badEnd(status, "while everything was kept running");
  }
  if (end !== null) throw end;
  return summary.ok ? Exit.ok : Exit.failure;
});

/** Long enough for all changes of a scene. */
const SHORTEST_SCENE_MILLIS = 500;

/** Plays every scene. Throws UserError if the appliance ends meanwhile. */
async function playScenes(stage: Stage, say: (line: string) => void): Promise<Outcome[]> {
  const { process } = stage.appliance;
  const outcomes: Outcome[] = [];
  for (const scene of SCENES) {
    const outcome = await scene.play(stage).catch(async (error) => {
      throw process.stderr.ended ? badEnd(await process.ended(), `in "${scene.name}"`) : error;
    });
    outcomes.push(outcome);
    say(sceneLine(scene, outcome));
    for (const failure of outcome.failures) console.error(`    ${scene.name}: ${failure}`);
  }
  return outcomes;
}

/** Sums the scenes up in the object that `--json` prints. */
function summarize(
  stage: Stage,
  { outcomes, end, provider }: {
    outcomes: readonly Outcome[];
    end: UserError | null;
    provider: string;
  },
) {
  const total = (name: "sent" | "answered" | "mismatched") =>
    outcomes.reduce((sum, outcome) => sum + outcome[name], 0);
  const rtts = Float64Array.from(outcomes.flatMap((outcome) => outcome.rttMicros)).sort();
  const quantile = (q: number) => rtts[Math.min(rtts.length - 1, Math.floor(q * rtts.length))] ?? 0;
  const fast = provider === "socket" || stage.usesXdp;
  if (!fast) console.error(`    the mode is '${stage.mode}', which is not an AF_XDP one`);
  return {
    ok: fast && end === null && outcomes.every(({ failures }) => failures.length === 0),
    /** The mode of its interfaces, as the appliance logs it. */
    mode: stage.mode,
    sent: total("sent"),
    answered: total("answered"),
    mismatched: total("mismatched"),
    rttMicros: { p50: quantile(0.5), p99: quantile(0.99) },
    changes: outcomes.map(({ sent, answered, recoveredMillis }, i) => ({
      name: SCENES[i].name,
      lost: sent - answered,
      /** Null (JSON has no infinity) if answers did not come back. */
      recoveredMillis,
    })),
  };
}

const NAME_WIDTH = Math.max(...SCENES.map(({ name }) => name.length));

function opening(stage: Stage): string {
  const columns = `${"scene".padEnd(NAME_WIDTH)}   sent   lost   back after   what changed`;
  return [
    `Tegula ${VERSION} serves echo on ${HOST_ADDRESS} port ${ECHO_PORT} (${stage.mode});` +
    " clients keep sending while the network changes.",
    "",
    `    ${columns}`,
  ].join("\n");
}

function sceneLine(scene: Scene, outcome: Outcome): string {
  const lost = outcome.sent - outcome.answered;
  const back = lost === 0 ? "–" : `${outcome.recoveredMillis} ms`;
  return [
    outcome.failures.length === 0 ? "  ✓" : "  ✗",
    scene.name.padEnd(NAME_WIDTH),
    `${outcome.sent}`.padStart(6),
    `${lost}`.padStart(6),
    `${back}  `.padStart(14),
    scene.change,
  ].join(" ");
}

function closing(summary: ReturnType<typeof summarize>): string {
  const { sent, answered, mismatched, rttMicros: { p50, p99 } } = summary;
  const verdict = summary.ok
    ? "Every scene ended as expected."
    : "Some scenes did not end as expected; the reasons are above.";
  return [
    "",
    `${answered} of ${sent} datagrams answered, ${mismatched} answers wrong; ` +
    `round trip ${p50} µs (median), ${p99} µs (99 %).`,
    verdict,
  ].join("\n");
}

/** Commands for another terminal, to inspect what is running. */
function holdHelp(): string {
  const enter = `nsenter --target ${Deno.env.get(OUTER_PID)} --mount --pid`;
  const self = selfCommand().join(" ");
  return [
    "",
    "Everything is still running. In another terminal, as root:",
    "",
    `  ${enter} ip netns exec client bash -c \\`,
    `    'exec 3<>/dev/udp/${HOST_ADDRESS}/${ECHO_PORT}; echo hello >&3; head -n 1 <&3'`,
    `  ${enter} ip netns exec host ${self} show routes`,
    `  ${enter} ip -n host route add blackhole ${FAR_ADDRESS}`,
    `  ${enter} ip netns exec host ${self} route get ${FAR_ADDRESS}`,
    `  ${enter} sh -c 'kill -USR2 $(ip netns pids host)'   # counters, shown here`,
    "",
    "Ctrl-C here removes it.",
  ].join("\n");
}
