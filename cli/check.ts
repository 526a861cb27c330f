/**
 * `tegula check`: what on this host Tegula would not honour or would suffer from, each with a verdict and
 * the command that mends it.
 */

import { type Host, openHost } from "../ffi/host.ts";
import { openXskSetup } from "../ffi/xsk.ts";
import { portsOf } from "../tiles/runtime/ports.ts";
import { planApps } from "./apps.ts";
import { checkFilters } from "./check_filters.ts";
import {
  type Again,
  checkHost,
  checkInterface,
  checkLost,
  checkMultipath,
  checkQueues,
  checkRoutes,
  fail,
  type Finding,
  ok,
} from "./check_findings.ts";
import { checkListen, CONFIG_OPTIONS, readConfig, type RunConfig } from "./config.ts";
import { findDefaults } from "./default_interfaces.ts";
import { Control } from "./control.ts";
import { checkStart, type Running } from "./check_start.ts";
import { Exit, UserError } from "./errors.ts";
import { load } from "../master/libraries.ts";
import { command, type Given } from "./options.ts";
import { say } from "./output.ts";
import { checkInterfaces, scarcity } from "../master/preflight.ts";
import { openMirror } from "./snapshot.ts";

const HELP = `usage: tegula check --config FILE [--control PATH] [OPTIONS]
       tegula check [--interface IF…] [--listen PORT=APP…] [--net-tiles N] [--dispatcher] [-j]

With --config: everything that 'tegula run --config FILE' does before it attaches XDP, a line for each
phase: configuration, control socket, privileges, interfaces, limits, ports, XDP, each app made in a process
of its own without what it is granted of the network, and the types of apps in TypeScript. A tegula that runs
and would be reloaded with it hands over what it has.

Then, and without --config, it looks at this host as 'tegula run' would find it: privileges, limits, policy
rules and routes that Tegula does not follow, rules of the packet filter that do not see what AF_XDP takes,
and each interface that is named, or every Ethernet interface that is up: its state, queues, driver and who
has XDP there; which of them 'tegula run' takes when none is named. Changes nothing.

  --interface IF     an interface that Tegula is to run on; may be given again
  --listen PORT=APP  as 'tegula run' has it: only rules that may be for these ports are named
  --net-tiles N      as 'tegula run' has it
  --dispatcher       as 'tegula run' has it
  --control PATH     as 'tegula run' has it
  --config FILE      read the same from a file
  -j, --json         JSON
  --help             this

Exit status: with --config that of a start, 0 where it would serve, whatever else hurts; without it 0 all is
well, 1 something is not. A line that is not well has the command that mends it.`;

const { interface: name, listen, "net-tiles": netTiles, dispatcher, control, config } =
  CONFIG_OPTIONS;
const OPTIONS = {
  interface: name,
  listen,
  "net-tiles": netTiles,
  dispatcher,
  control,
  config,
  json: { type: "boolean", short: "j" },
} as const;

export default command({ name: "check", help: HELP, options: OPTIONS }, run);

async function run({ values: { json, ...configured } }: Given<typeof OPTIONS>): Promise<number> {
  const findings: Finding[] = [];
  const tell = (finding: Finding) => {
    findings.push(finding);
    if (!json) say(text(finding));
  };
  const isStart = configured.config !== undefined;
  if (isStart) { for await (const finding of checkStart(configured, askRunning)) tell(finding); }
  const failed = findings.find(({ verdict }) => verdict === "fail");
  if (failed === undefined) {
    const asked = await readConfig(configured);
    checkListen(asked.listen);
    const host = [...findAll(asked, againWith(configured)), ...await checkRunning(asked)];
    // Of what would end a start its phases have told.
    for (const each of host) if (!isStart || each.verdict === "warn") tell(each);
  }
  if (json) say(JSON.stringify(findings));
  if (isStart) return failed?.status ?? Exit.ok;
  return findings.every(({ verdict }) => verdict === "ok") ? Exit.ok : Exit.failure;
}

/** Commands that repeat the options `given`. */
function againWith(given: Parameters<Again>[1]): Again {
  return (command, other) => {
    const options = Object.entries({ ...given, ...other }).flatMap(([option, said]) =>
      [said ?? []].flat().map((one) => one === true ? `--${option}` : `--${option} ${quoted(one)}`)
    );
    return ["tegula", command, ...options].join(" ");
  };
}

/** A word as a shell takes it. */
function quoted(word: string | boolean): string {
  const text = String(word);
  return /^[\w=./:@,+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function findAll(
  config: RunConfig,
  again: Again,
): Finding[] {
  const { interfaces: names, listen, netTiles, dispatcher } = config;
  const host = load(openHost);
  const facts = { host, xsk: load(openXskSetup), dispatcher, netTiles, again };
  const notices: string[] = [];
  const live = openMirror({ log: (line) => notices.push(line) });
  const { reader, writer } = live;
  const { interfaces } = reader;
  const records = interfaces.records();
  checkInterfaces(host, names);
  const wanted = records.filter((record) =>
    names.length > 0
      ? names.includes(interfaces.name(record))
      : interfaces.isUp(record) && interfaces.macHead(record) !== 0
  );
  const wantedNames = wanted.map((record) => interfaces.name(record));
  // What 'tegula run' would take.
  const defaults = ok("without --interface and --config", findDefaults(host, live).says);
  return [
    ...checkHost(facts, reader),
    ...listen.length === 0 ? [] : [checkSize(host, { ...config, interfaces: wantedNames })],
    ...names.length === 0 ? [defaults] : [],
    ...checkRoutes(notices),
    ...checkMultipath(writer.rib.routes()),
    ...checkFilters({
      interfaces: wantedNames,
      ports: portsOf(listen.map(({ ports }) => ports)),
      again,
    }),
    ...wanted.flatMap((record) => checkInterface(facts, interfaces, record)),
    ...checkQueues(facts, wantedNames),
  ];
}

/** Whether this process might have as many descriptors and threads as what is to be served takes. */
function checkSize(host: Host, config: RunConfig): Finding {
  const apps = planApps(config);
  const trouble = scarcity(host, { ...config, apps, hasStatus: true });
  const subject = "open files, threads";
  return trouble === null
    ? ok(subject, "as many as this takes")
    : fail(subject, trouble.says, trouble.fix);
}

/** What a tegula that runs here has lost since its start. */
async function checkRunning({ control, interfaces: names }: RunConfig): Promise<Finding[]> {
  const running = await askRunning(control);
  return running === null ? [] : checkLost(running, names);
}

/** What a tegula that runs here says of itself; null: none runs, or it is not to be asked. */
async function askRunning(control: string | undefined): Promise<Running | null> {
  try {
    const status = await (await Control.connect(control)).one({ do: "status" });
    // One of before says nothing of XDP.
    const { interfaces, xdp = interfaces, listen } = status;
    return { interfaces, xdp, listen } as Running;
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}

function text({ verdict, subject, says, fix }: Finding): string {
  const line = `${verdict.padEnd(4)} ${subject}: ${says}`;
  return fix === undefined ? line : `${line}\n       ${fix}`;
}
