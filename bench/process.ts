/**
 * An app as a process of its own, confined before exec, beside the same app in a worker: how long its
 * start takes, round trips and rates over the same links, and what it costs to kill it and have a
 * successor go on. The net side is this process's only thread (`process_slice.ts`); nothing passes a
 * network.
 */

import { delay } from "../tiles/runtime/delay.ts";
import { processorSeconds } from "./processes.ts";
import {
  interleave,
  isWanted,
  type Report,
  resultOf,
  type Selection,
  TEGULA,
  type Unit,
} from "./harness.ts";
import { closeFiles, EchoLink, refusedCalls, type Takeover, takeOver } from "./process_slice.ts";

const ROUNDS = 15;
const TAKEOVERS = 100;
const ROUND_TRIPS = 10_000;
/** Of the rate: how long, and requests on their way. */
const [RATE_MS, BURST, WINDOW] = [500, 64, 256];

/** Measures what is wanted. */
export async function run(report: Report, selection: Selection = {}): Promise<void> {
  try {
    const wants = (...names: string[]) => names.some((name) => isWanted(name, selection));
    if (wants("start", "start cpu")) await measureStarts(report, selection);
    if (wants("rtt p50", "rtt p99", "rate")) await measureTraffic(report, selection);
    if (wants(...TAKEOVER_CASES)) await measureTakeovers(report, selection);
    const refused = refusedCalls();
    if (refused.length > 0) throw new Error(`the app's process was refused ${refused.join(", ")}`);
  } finally {
    closeFiles();
  }
}

/** Starts the echo in a process, or in a worker; resolves with its process and how to end it. */
async function startEcho(
  link: EchoLink,
  kind: "process" | "worker",
): Promise<{ pid: number; end(): Promise<void> }> {
  if (kind === "process") {
    const app = link.process();
    await app.start();
    return { pid: app.pid, end: () => app.stop() };
  }
  await link.startWorker();
  while (!link.isRunning) await delay(1);
  const end = async () => {
    link.stop();
    while (!link.hasStopped) await delay(1);
  };
  return { pid: 0, end };
}

async function measureStarts(report: Report, { runs = ROUNDS }: Selection): Promise<void> {
  const start = (kind: "process" | "worker") => async () => {
    const link = new EchoLink();
    const begun = performance.now();
    const { pid, end } = await startEcho(link, kind);
    const took = performance.now() - begun;
    const cpu = pid === 0 ? NaN : processorSeconds(pid) * 1000;
    await end();
    link.close();
    return { took, cpu };
  };
  const samples = await interleave({ [TEGULA]: start("process"), worker: start("worker") }, {
    runs,
  });
  const took = [...samples].map(([who, all]) => [who, all.map((each) => each.took)] as const);
  report(resultOf({ bench: "process", case: "start", unit: "ms" }, new Map(took)));
  const cpu = samples.get(TEGULA)!.map((each) => each.cpu);
  report(resultOf({ bench: "process", case: "start cpu", unit: "ms" }, new Map([[TEGULA, cpu]])));
}

async function measureTraffic(report: Report, { runs = ROUNDS }: Selection): Promise<void> {
  const [link, beside] = [new EchoLink(), new EchoLink()];
  const started = [await startEcho(link, "process"), await startEcho(beside, "worker")];
  const traffic = (link: EchoLink) => async () => ({
    ...roundTrips(link),
    kpps: await rate(link),
  });
  const samples = await interleave({ [TEGULA]: traffic(link), worker: traffic(beside) }, { runs });
  const cases = [
    ["rtt p50", "ns/op", "p50"],
    ["rtt p99", "ns/op", "p99"],
    ["rate", "kpps", "kpps"],
  ] as const;
  for (const [name, unit, field] of cases) {
    const figures = [...samples].map(([who, all]) =>
      [who, all.map((each) => each[field])] as const
    );
    report(resultOf({ bench: "process", case: name, unit }, new Map(figures)));
  }
  for (const { end } of started) await end();
  link.close();
  beside.close();
}

/** Nanoseconds of one request and its answer, one at a time; either side blocks until it is woken. */
function roundTrips(link: EchoLink): { readonly p50: number; readonly p99: number } {
  const took = new Float64Array(ROUND_TRIPS);
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const begun = performance.now();
    link.send(1);
    while (link.take() === 0) link.wait(1000);
    took[i] = (performance.now() - begun) * 1e6;
  }
  took.sort();
  return { p50: took[ROUND_TRIPS >> 1], p99: took[Math.floor(ROUND_TRIPS * 0.99)] };
}

/** Thousands of answers a second to requests that are sent in bursts. */
async function rate(link: EchoLink): Promise<number> {
  const [begun, before] = [performance.now(), link.answered];
  let elapsed;
  while ((elapsed = performance.now() - begun) < RATE_MS) {
    if (link.out <= WINDOW - BURST) link.send(BURST);
    if (link.take() === 0) link.wait(1000);
  }
  const answered = link.answered - before;
  await link.settle();
  return answered / elapsed;
}

/** Of processes that are killed, and of those that hand over to a successor that is ready. */
const TAKEOVERS_BY = { kill: "killed", "hand over": "handed over" } as const;
const TAKEOVER_CASES = Object.values(TAKEOVERS_BY).flatMap((how) =>
  ["gap", "gap max", "waited", "repeated", "lost", "app memory", "own memory", "descriptors"]
    .map((name) => `${how} ${name}`)
);

async function measureTakeovers(report: Report, selection: Selection): Promise<void> {
  for (const [kind, how] of Object.entries(TAKEOVERS_BY)) {
    const { runs = TAKEOVERS } = selection;
    const tell = (name: string, unit: Unit, figures: readonly number[], first?: number) =>
      report(resultOf(
        { bench: "process", case: `${how} ${name}`, unit },
        new Map([[TEGULA, figures], ...(first === undefined ? [] : [["first", [first]] as const])]),
      ));
    const all: Takeover[] = [];
    const link = new EchoLink();
    let first, last;
    let app = link.process();
    await app.start();
    for (let i = 0; i < runs; i++) {
      link.send(1);
      await link.settle();
      all.push(await takeOver(link, app, kind as keyof typeof TAKEOVERS_BY));
      last = { app: pss(app.pid), own: pss("self"), descriptors: descriptors() };
      first ??= last;
      // Pauses before a restart grow: an instance that never failed has the first.
      if (kind === "kill") {
        await app.stop();
        app = link.process(undefined, () => {});
        await app.start();
      }
    }
    await app.stop();
    link.close();
    const of = (name: keyof Takeover) => all.map((takeover) => takeover[name]);
    const sum = (name: keyof Takeover) => of(name).reduce((total, one) => total + one, 0);
    tell("gap", "ms", of("gapMs"));
    tell("gap max", "ms", [Math.max(...of("gapMs"))]);
    tell("waited", "requests", of("waited"));
    tell("repeated", "requests", [sum("repeated")]);
    tell("lost", "requests", [sum("lost")]);
    tell("app memory", "MiB", [last!.app], first!.app);
    tell("own memory", "MiB", [last!.own], first!.own);
    tell("descriptors", "entries", [last!.descriptors], first!.descriptors);
    if (sum("lost") > 0) throw new Error(`${sum("lost")} requests were lost`);
  }
}

/** MiB that a process has of memory (PSS of proc_pid_smaps(5)); NaN where the caller may not look. */
function pss(pid: number | "self"): number {
  try {
    const text = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
    return Number(/^Pss:\s+(\d+) kB/m.exec(text)![1]) / 1024;
  } catch {
    return NaN;
  }
}

function descriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}
