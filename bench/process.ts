/**
 * An app as a process of its own, confined before exec, beside the same app in a worker: how long its
 * start takes, round trips and rates over the same links, and what it costs to kill it and have a
 * successor go on. The net side is this process's only thread (`process_slice.ts`); nothing passes a
 * network.
 */

import { delay } from "../tiles/runtime/delay.ts";
import {
  interleave,
  isWanted,
  type Report,
  resultOf,
  type Selection,
  TEGULA,
  type Unit,
} from "./harness.ts";
import {
  dispose,
  EchoLink,
  makeProgram,
  refusedCalls,
  type Takeover,
  takeOver,
} from "./process_slice.ts";

const ROUNDS = 15;
const TAKEOVERS = 100;
const ROUND_TRIPS = 10_000;
/** Of the rate: how long, and requests on their way. */
const [RATE_MS, BURST, WINDOW] = [500, 64, 256];

/** Measures what is wanted. */
export async function run(report: Report, selection: Selection = {}): Promise<void> {
  const folder = makeProgram();
  try {
    const wants = (...names: string[]) => names.some((name) => isWanted(name, selection));
    if (wants("start")) await measureStarts(folder, report, selection);
    if (wants("rtt p50", "rtt p99", "rate")) await measureTraffic(folder, report, selection);
    if (wants(...TAKEOVER_CASES)) measureTakeovers(folder, report, selection);
    const refused = refusedCalls();
    if (refused.length > 0) throw new Error(`the app's process was refused ${refused.join(", ")}`);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Waits until the echo's loop runs; `hasEnded` says when it never will. */
async function running(link: EchoLink, hasEnded = () => false): Promise<void> {
  while (!link.isRunning) {
    if (hasEnded()) throw new Error("the app's process has ended at its start");
    await delay(1);
  }
}

/** Starts the echo in a process, or in a worker, and returns how to end it. */
async function startEcho(
  link: EchoLink,
  folder: string,
  kind: "process" | "worker",
): Promise<() => Promise<void>> {
  if (kind === "process") {
    const child = link.start(folder);
    await running(link, () => child.wait() !== null);
    return () => Promise.resolve(dispose(child));
  }
  await link.startWorker();
  await running(link);
  return async () => {
    link.stop();
    while (!link.hasStopped) await delay(1);
  };
}

async function measureStarts(
  folder: string,
  report: Report,
  { runs = ROUNDS }: Selection,
): Promise<void> {
  const start = (kind: "process" | "worker") => async () => {
    const link = new EchoLink();
    const begun = performance.now();
    const end = await startEcho(link, folder, kind);
    const took = performance.now() - begun;
    await end();
    link.close();
    return took;
  };
  const samples = await interleave({ [TEGULA]: start("process"), worker: start("worker") }, {
    runs,
  });
  report(resultOf({ bench: "process", case: "start", unit: "ms" }, samples));
}

async function measureTraffic(
  folder: string,
  report: Report,
  { runs = ROUNDS }: Selection,
): Promise<void> {
  const [link, beside] = [new EchoLink(), new EchoLink()];
  const ends = [
    await startEcho(link, folder, "process"),
    await startEcho(beside, folder, "worker"),
  ];
  const traffic = (link: EchoLink) => () => ({ ...roundTrips(link), kpps: rate(link) });
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
  for (const end of ends) await end();
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
function rate(link: EchoLink): number {
  const [begun, before] = [performance.now(), link.answered];
  let elapsed;
  while ((elapsed = performance.now() - begun) < RATE_MS) {
    if (link.out <= WINDOW - BURST) link.send(BURST);
    if (link.take() === 0) link.wait(1000);
  }
  const answered = link.answered - before;
  link.settle();
  return answered / elapsed;
}

const TAKEOVER_CASES = [
  "takeover noticed",
  "takeover exec",
  "takeover gap",
  "takeover gap max",
  "takeover waited",
  "takeover repeated",
  "takeover lost",
  "takeover app memory",
  "takeover own memory",
  "takeover descriptors",
];

function measureTakeovers(
  folder: string,
  report: Report,
  { runs = TAKEOVERS }: Selection,
): void {
  const tell = (name: string, unit: Unit, figures: readonly number[], first?: number) =>
    report(resultOf(
      { bench: "process", case: `takeover ${name}`, unit },
      new Map([[TEGULA, figures], ...(first === undefined ? [] : [["first", [first]] as const])]),
    ));
  const all: Takeover[] = [];
  const link = new EchoLink();
  let child = link.start(folder);
  let first, last;
  for (let i = 0; i < runs; i++) {
    link.send(1);
    link.settle();
    const { successor, takeover } = takeOver(link, child, folder);
    child = successor;
    all.push(takeover);
    last = { app: pss(child.pid), own: pss("self"), descriptors: descriptors() };
    first ??= last;
  }
  dispose(child);
  link.close();
  const of = (name: keyof Takeover) => all.map((takeover) => takeover[name]);
  const sum = (name: keyof Takeover) => of(name).reduce((total, one) => total + one, 0);
  tell("noticed", "ms", of("noticedMs"));
  tell("exec", "ms", of("executedMs"));
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
