// SPDX-License-Identifier: Apache-2.0
/**
 * `scripts/syscalls [VARIANT…]`: which system calls code in a tile makes, when, and what follows where
 * one is refused. Each workload of `workloads.ts` runs under strace in a process of its own, on each
 * kind of machine that is available here (VARIANTS); then each call that a workload made is refused
 * alone. The results are kept in `tests/fixtures/syscalls/`. `docs/system_calls.md` is written from them,
 * from the policy in `ffi/policy.h`, and from the reasons in `reasons.ts`.
 *
 * `syscalls.ts record WORKLOADS KNOWN`, two lists in JSON, prints what it sees as JSON. This is how it
 * is called in the virtual machine. `syscalls.ts confine PLAY` runs a workload in an app's process, and
 * `syscalls.ts confined` records all of them so, and nothing else.
 */

import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { libraryPath } from "../../ffi/library.ts";
import { openProcesses, RUN_FLAGS } from "../../ffi/process.ts";
import { openObserver, openTile, SLOT_BYTES } from "../../ffi/tile.ts";
import { machine } from "../../scripts/machine.ts";
import { EXPECTED, EXPECTED_OF_PROCESSES, REASONS } from "./reasons.ts";
import { type Play, stopAndContinue, WORKLOADS } from "./workloads.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const EPERM = 1;
const ENOSYS = 38;
/** What was seen, a file a variant. */
const KEPT = `${ROOT}tests/fixtures/syscalls`;
export const DOCUMENT = `${ROOT}docs/system_calls.md`;

/** One kind of machine. */
interface Variant {
  readonly says: string;
  /** More for V8. */
  readonly v8Flags?: string;
  /** Answers clone3 as the filter does. */
  readonly noClone3?: true;
  /**
   * Environment of scripts/vm; on this machine when left out. A trace of everything takes minutes a
   * workload there: only calls are traced that were not seen on this machine.
   */
  readonly machine?: Record<string, string>;
  /** Only these workloads, where each takes long. */
  readonly workloads?: readonly string[];
}

/** What an emulated processor does within some minutes. */
const SHORT = ["all tiers", "dates", "digests"];

export const VARIANTS: { readonly [name: string]: Variant } = {
  here: { says: "this machine" },
  keyless: {
    says: "this machine, V8 without memory protection keys",
    v8Flags: "--no-memory-protection-keys",
  },
  clone: { says: "this machine, clone3 answered ENOSYS as the filter does", noClone3: true },
  vm_hpet: {
    says: "Debian's kernel, emulated CPU with `pku`, `clocksource=hpet`",
    machine: { VM_APPEND: "clocksource=hpet" },
    workloads: [
      ...["all tiers", "garbage", "wasm async", "dates", "errors", "digests", "timers", "atomics"],
      ...["output", "uncaught error"],
    ],
  },
  vm_small: {
    says: "the same without `pku`, `clocksource=acpi_pm`, 1 core, 512 MiB",
    machine: {
      VM_CPU: "max,pku=off,la57=off",
      VM_APPEND: "clocksource=acpi_pm",
      VM_PROCESSORS: "1",
      VM_MEGABYTES: "512",
    },
    workloads: SHORT,
  },
  vm_wide: {
    says: "the same with `pku`, 8 cores",
    machine: { VM_PROCESSORS: "8" },
    workloads: SHORT,
  },
};

/** Workloads that are fast, do nothing that a tile may not, and make most of the calls; for the test. */
export const QUICK = [
  ...["all tiers", "wasm async", "intl", "dates", "errors", "digests", "atomics"],
  ...["output", "uncaught error", "abort", "Deno files"],
];

/** Who made a call, and when. */
export const WHO = ["start", "later", "threads"] as const;
export type Who = typeof WHO[number];

/** Of one variant: the workloads in which a call was seen, by call. */
export interface Seen {
  readonly machine: string;
  readonly calls: { [call: string]: { [who in Who]?: string[] } };
  /** How each workload ended. */
  readonly ends: { [workload: string]: string };
  /** What followed where a call was refused, by call and workload. */
  readonly refused?: { [call: string]: { [workload: string]: string } };
  /** What the workloads did that ran confined: how they ended, and which calls were counted. */
  readonly confined?: { [workload: string]: { readonly end: string; readonly refused: string[] } };
}

/**
 * Reads a trace of `strace -f`: the calls of the worker's thread before and after it made the mark, and
 * those of threads that it made after it.
 */
export function readTrace(text: string): { [who in Who]: Set<string> } {
  const calls = { start: new Set<string>(), later: new Set<string>(), threads: new Set<string>() };
  const lines = [...text.matchAll(/^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed)(.*)$/gm)];
  const mark = lines.findIndex(([, , , rest]) => rest.includes('"/tegula/begin"'));
  const own = lines[mark]?.[1];
  // A thread's first lines may stand before the one that says that it was made.
  const threads = new Set([own]);
  for (const [, maker, call, rest] of lines.slice(mark)) {
    const made = /^clone3?$/.test(call) ? / = (\d+)$/.exec(rest)?.[1] : undefined;
    if (made !== undefined && threads.has(maker)) threads.add(made);
  }
  lines.forEach(([, thread, call, rest], at) => {
    if (rest.includes('"/tegula/')) return;
    if (thread === own) calls[at < mark ? "start" : "later"].add(call);
    else if (threads.has(thread)) calls.threads.add(call);
  });
  return calls;
}

/** What says why a process ended, in its output. */
const WHY = [
  /panicked at [\w/.:-]+/,
  /unable to create worker threads/,
  /Fatal (?:glibc error|JavaScript).*/,
  /getentropy failed/,
  /RAW: .*/,
  /^onerror: .*/m,
];

/** How a process ended, and why. */
function endOf(
  { code, signal }: Pick<Deno.CommandStatus, "code" | "signal">,
  output: string,
  over: boolean,
): string {
  // An error of the workload's own, by the status that it ends with then.
  if (code === 3 && !over) return "an error";
  const how = over ? "does not end" : signal ?? `status ${code}`;
  const why = WHY.map((pattern) => pattern.exec(output)?.[0]).find((found) => found !== undefined);
  if (why === undefined || (code === 0 && !over)) return how;
  return `${how}: ${why.replace(/\/\S*\/(?=\w+\/\w+\.rs)/, "").replace(/:$/, "")}`;
}

interface Run extends Partial<Pick<Play, "refuse" | "confined">> {
  readonly traced?: boolean;
  /** Calls that are left out of the trace, by which the others cost little. */
  readonly known?: readonly string[];
  readonly v8Flags?: string;
  readonly seconds?: number;
}

/**
 * Runs one workload. Returns how it ended, which calls were counted where it ran confined, and, traced,
 * the text of the trace.
 */
export async function play(
  name: string,
  { traced, known = [], v8Flags, refuse, confined, seconds = 300 }: Run,
): Promise<{ end: string; refused: string[]; text: string }> {
  const folder = await Deno.makeTempDir({ prefix: "syscalls-" });
  const trace = `${folder}/trace`;
  await Deno.mkdir(`${folder}/own`);
  // An app's process has another user.
  if (confined) { for (const path of [folder, `${folder}/own`]) await Deno.chmod(path, 0o777); }
  const flags = [v8Flags, WORKLOADS[name].v8Flags].filter((each) => each !== undefined);
  const unknown = known.length > 0 ? ["--seccomp-bpf", "-e", `trace=!${known.join(",")}`] : [];
  const command = [
    ...(traced
      ? ["strace", "-f", "-qq", "--kill-on-exit", "-s", "20", "-o", trace, ...unknown]
      : []),
    ...[
      Deno.execPath(),
      "run",
      "--no-check",
      "--no-prompt",
      "--allow-all",
      "--unstable-worker-options",
    ],
    ...(flags.length > 0 && !confined ? [`--v8-flags=${flags.join(",")}`] : []),
    ...(confined
      ? [import.meta.filename!, "confine", flags.join(",")]
      : [`${ROOT}tests/syscalls/workloads.ts`]),
    JSON.stringify({ name, folder: `${folder}/own`, refuse, confined } satisfies Play),
  ];
  const child = new Deno.Command(command[0], {
    args: command.slice(1),
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let over = false;
  const timer = setTimeout(() => {
    over = true;
    child.kill("SIGKILL");
  }, seconds * 1000);
  const { stdout, stderr, ...status } = await child.output();
  clearTimeout(timer);
  const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  const text = traced ? await Deno.readTextFile(trace) : "";
  await Deno.remove(folder, { recursive: true });
  const refused = [...output.matchAll(/^refused (\w+)$/gm)].map(([, call]) => call);
  const ended = /^ended (\d+) (\w*)$/m.exec(output);
  if (confined && ended === null && !over) throw new Error(output);
  const how = ended === null
    ? status
    : { code: Number(ended[1]), signal: (ended[2] || null) as Deno.Signal | null };
  return { end: endOf(how, output.replaceAll(/^app: /gm, ""), over), refused, text };
}

/** Copies what an app's process runs to where its user can read it, and returns the folder. */
function makeFolder(): string {
  const folder = Deno.makeTempDirSync({ prefix: "syscalls-" });
  for (const part of ["ffi", "build", "tests/syscalls"]) {
    Deno.mkdirSync(`${folder}/${part}`, { recursive: true });
    for (const { name, isFile } of Deno.readDirSync(ROOT + part)) {
      if (isFile) Deno.copyFileSync(`${ROOT}${part}/${name}`, `${folder}/${part}/${name}`);
    }
  }
  Deno.chmodSync(folder, 0o755);
  return folder;
}

/**
 * Runs one workload in a process that was started as an app's is (`master/app_process.ts`). Prints what it
 * was refused, and how it ended. Its memory has no bound, which would end some.
 */
async function confine(v8Flags: string, play: Play): Promise<void> {
  const program = makeFolder();
  const library = libraryPath(`${program}/`);
  const script = `${program}/tests/syscalls/workloads.ts`;
  const write = WORKLOADS[play.name].files ? [play.folder] : [];
  const counters = new Uint32Array(new SharedArrayBuffer(SLOT_BYTES));
  const observer = openObserver();
  observer.start(counters);
  const child = openProcesses().start({
    name: "app",
    args: [
      ...RUN_FLAGS,
      ...(v8Flags === "" ? [] : [`--v8-flags=${v8Flags}`]),
      `--allow-read=${[program, ...write].join(",")}`,
      ...write.map((path) => `--allow-write=${path}`),
      `--allow-ffi=${library}`,
      script,
      JSON.stringify(play),
    ],
    read: [program, ...write],
    write,
  });
  observer.hear({ name: "app", slot: 0, listener: child.listener, words: child.words });
  if (play.name === "stop and continue") stopAndContinue(child.pid);
  let ending;
  while ((ending = child.wait()) === null) await new Promise((resolve) => setTimeout(resolve, 10));
  // Another thread writes what it said at last.
  await new Promise((resolve) => setTimeout(resolve, 200));
  const { callName } = openTile();
  for (const [call, count] of counters.entries()) {
    if (count > 0) console.log(`refused ${callName(call)}`);
  }
  const { status, signal } = ending;
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0];
  console.log(`ended ${status} ${name ?? ""}`);
  Deno.removeSync(program, { recursive: true });
  Deno.exit(0);
}

/** Does something with each, two at a time where there are processors. */
export async function forEach<T>(all: Iterable<T>, act: (each: T) => Promise<void>): Promise<void> {
  const left = [...all];
  const work = async () => {
    while (left.length > 0) await act(left.shift()!);
  };
  await Promise.all(Array.from({ length: Math.min(2, navigator.hardwareConcurrency) }, work));
}

/** Runs workloads on this machine under strace. */
export async function observe(names: readonly string[], run: Run = {}): Promise<Seen> {
  const seen: Seen = { machine: machineText(), calls: {}, ends: {} };
  await forEach(names, async (name) => {
    const { end, text } = await play(name, { ...run, traced: true });
    seen.ends[name] = end;
    const calls = readTrace(text);
    for (const who of WHO) {
      for (const call of calls[who]) ((seen.calls[call] ??= {})[who] ??= []).push(name);
    }
  });
  return seen;
}

/** What this machine is, in a line. */
function machineText(): string {
  const { cpu, pku, cores, kernel, clocksource } = machine();
  const megabytes = Math.round(Deno.systemMemoryInfo().total / 2 ** 20);
  return `${cpu}, ${pku === "yes" ? "pku" : "no pku"}, ${cores} cores, ${megabytes} MiB, ` +
    `Linux ${/^[\d.]+/.exec(kernel)?.[0]}, ${clocksource}`;
}

/** The number of each system call on this machine, as its headers have it. */
export function callNumbers(): Map<string, number> {
  const { stdout } = new Deno.Command("gcc", {
    args: ["-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
  }).outputSync();
  return new Map(
    [...new TextDecoder().decode(stdout).matchAll(/^#define __NR_(\w+) (\d+)$/gm)]
      .map(([, name, number]) => [name, Number(number)]),
  );
}

/** Refuses each call that workloads made later, alone, and says what is different. */
async function refuseEach(seen: Seen): Promise<NonNullable<Seen["refused"]>> {
  const numbers = callNumbers();
  const refused: NonNullable<Seen["refused"]> = {};
  const jobs = Object.entries(seen.calls).flatMap(([call, { later = [], threads = [] }]) => {
    const users = [...new Set([...threads, ...later])].filter((name) => name in WORKLOADS);
    const quick = users.filter((name) => !WORKLOADS[name].slow);
    // The rarest use is the most telling one: where few calls are made there is little else to fail.
    const weight = (name: string) =>
      Object.values(seen.calls).filter((by) => by.later?.includes(name)).length;
    const chosen = (quick.length > 0 ? quick : users).sort((a, b) => weight(a) - weight(b)).slice(
      0,
      3,
    );
    return numbers.has(call) ? chosen.map((name) => ({ call, name })) : [];
  });
  await forEach(jobs, async ({ call, name }) => {
    const refuse = { call: numbers.get(call)!, errno: EPERM };
    const { end } = await play(name, { refuse, seconds: 30 });
    (refused[call] ??= {})[name] = end;
  });
  return refused;
}

/** Runs each workload in an app's process. */
async function confineEach(names: readonly string[]): Promise<NonNullable<Seen["confined"]>> {
  const confined: NonNullable<Seen["confined"]> = {};
  await forEach(names, async (name) => {
    const { end, refused } = await play(name, { confined: true });
    confined[name] = { end, refused };
  });
  return confined;
}

/** Records a variant into its file. */
async function record(name: string): Promise<void> {
  const { v8Flags, noClone3, machine, workloads = Object.keys(WORKLOADS) } = VARIANTS[name];
  console.error(`${name}: ${VARIANTS[name].says}`);
  let seen: Seen;
  if (machine === undefined) {
    const refuse = noClone3 && { call: callNumbers().get("clone3")!, errno: ENOSYS };
    seen = await observe(workloads, { v8Flags, refuse });
    if (name === "here") {
      seen = { ...seen, refused: await refuseEach(seen), confined: await confineEach(workloads) };
    }
  } else {
    const { here } = kept();
    // What the reader of a trace needs is traced wherever it was seen.
    const known = Object.keys(here.calls).filter((call) =>
      (here.calls[call].later ?? here.calls[call].threads) && !/^(access|clone3?)$/.test(call)
    );
    const { stdout, success } = await new Deno.Command(`${ROOT}scripts/vm`, {
      args: [
        Deno.execPath(),
        "run",
        "--allow-all",
        "--no-check",
        import.meta.filename!,
        "record",
        JSON.stringify(workloads),
        JSON.stringify(known),
      ],
      env: machine,
      stderr: "inherit",
    }).output();
    // All that the machine says comes out as one stream.
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    if (!success) throw new Error(`${name}: ${lines.join("\n")}`);
    seen = JSON.parse(lines.at(-1)!);
  }
  for (const by of Object.values(seen.calls)) {
    for (const who of WHO) if (by[who] !== undefined) by[who] = by[who].slice(0, MOST_NAMED + 1);
  }
  await Deno.writeTextFile(`${KEPT}/${name}.json`, await formatted(JSON.stringify(seen), "json"));
}

/** Records anew what follows under the filter, and keeps what was traced. */
async function recordConfined(): Promise<void> {
  const { here } = kept();
  const seen = { ...here, confined: await confineEach(Object.keys(WORKLOADS)) };
  await Deno.writeTextFile(`${KEPT}/here.json`, await formatted(JSON.stringify(seen), "json"));
}

/** A text as the project's files of that kind are formatted. */
export async function formatted(text: string, kind: "md" | "json"): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", kind, "-"],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  return new TextDecoder().decode((await child.output()).stdout);
}

/** By the policy: allowed to every tile, to some, refused as a matter of course, or just refused. */
export interface Policy {
  /** Names of the lists in `ffi/policy.h` that allow a call, or "arguments" where its arguments decide. */
  readonly allowed: Map<string, string[]>;
  /** Which error a call is answered with that the filter refuses without counting it. */
  readonly expected: Map<string, string>;
  /** The same, in an app's process. */
  readonly expectedOfProcesses: Map<string, string>;
  /** Parts of paths of files that may be looked for, without being counted. */
  readonly paths: readonly string[];
}

/** Reads the policy in the source of `ffi/policy.h`. */
export function readPolicy(source: string): Policy {
  const allowed = new Map<string, string[]>();
  const add = (call: string, list: string) => {
    const lists = allowed.get(call) ?? [];
    if (!lists.includes(list)) allowed.set(call, [...lists, list]);
  };
  const text = source.replaceAll(/\/\*[\s\S]*?\*\//g, "");
  const arrays = [...text.matchAll(/static const uint32_t (\w+)\[\] = \{([^}]*)\};/g)];
  for (const [, list, calls] of arrays) {
    for (const [, call] of calls.matchAll(/SYS_(\w+)/g)) add(call, list);
  }
  const at = text.indexOf("static const uint32_t PROCESS_CALLS");
  const [tiles, processes] = [text.slice(0, at), text.slice(at)];
  const errors = (part: string) =>
    new Map([...part.matchAll(/\{ SYS_(\w+), (E\w+)\b/g)].map(([, call, error]) => [call, error]));
  // Rules about arguments: everything that the functions which emit them name.
  const rules =
    /(?:allow_only|allow_reading|allow_abort)\(p, SYS_(\w+)|IF_EQUAL\(p, \d+, \d+, SYS_(\w+)/g;
  for (const [, call, other] of tiles.matchAll(rules)) add(call ?? other, "arguments");
  for (const [, call, other] of processes.matchAll(rules)) add(call ?? other, "PROCESS_ARGUMENTS");
  const lists = [...text.matchAll(/EXPECTED_(?:PATHS|PARTS)\[\] = \{([^}]*)\}/g)].map(([, list]) =>
    list
  );
  const paths = [...lists.join().matchAll(/"([^"]+)"/g)].map(([, path]) => path);
  return { allowed, expected: errors(tiles), expectedOfProcesses: errors(processes), paths };
}

/** What the lists are called in the document. */
const LISTS: { readonly [list: string]: string } = {
  NET_CALLS: "net tiles, on their own sockets",
  NETLINK_CALLS: "the netlink tile, on its own sockets",
  STATUS_CALLS: "the status tile",
  CLOCK_CALLS: "apps that were granted the clock, in a process or inline",
  PROCESS_CALLS: "an app's process, which also has to start",
  PROCESS_FILE_CALLS: "an app's process that was granted files to write",
  PROCESS_ARGUMENTS: "an app's process or the appliance's, with some arguments",
  APPLIANCE_CALLS: "the appliance's process, before its tiles bind them to their sockets",
  PROCESS_ACCEPT_CALLS: "the process of an app's slow side that was given listening sockets",
  PROCESS_WATCH_CALLS: "the process of an app's slow side that was granted files",
  PROCESS_NET_CALLS: "an app's process that was granted the network",
};

/** Workloads that are named of those that made a call. */
const MOST_NAMED = 3;

function some(names: readonly string[]): string {
  const shown = names.slice(0, MOST_NAMED).join(", ");
  return names.length > MOST_NAMED ? `${shown} and others` : shown;
}

/** Text filled to the width of the project's documents, as an item of a list. */
function item(text: string): string {
  const lines = [""];
  for (const word of `- ${text}`.split(" ")) {
    const last = lines.at(-1)!;
    if (last.length + word.length >= 100) lines.push(`  ${word}`);
    else lines[lines.length - 1] = last === "" ? word : `${last} ${word}`;
  }
  return lines.join("\n");
}

/** Everything that variants saw of a call: who made it, where, and what followed when it was refused. */
function evidence(call: string, all: { readonly [variant: string]: Seen }): string {
  const parts: string[] = [];
  const variants = Object.keys(all);
  for (const [who, says] of [["later", "later by"], ["threads", "by threads of"]] as const) {
    const seen = variants.filter((name) => all[name].calls[call]?.[who] !== undefined);
    if (seen.length === 0) continue;
    const workloads = [...new Set(seen.flatMap((name) => all[name].calls[call][who]!))];
    const only = seen.includes("here") ? "" : `, only ${seen.join(", ")}`;
    parts.push(`${says} ${some(workloads)}${only}`);
  }
  if (parts.length === 0) {
    const start = variants.some((name) => all[name].calls[call]?.start !== undefined);
    parts.push(start ? "only before confinement" : "not seen");
  }
  const { refused, ends } = all.here;
  const different = Object.entries(refused?.[call] ?? {}).filter(([name, end]) =>
    end !== ends[name]
  );
  const most = new Map(
    different.map(([name, end]) => [end.replace(/\/home\S*\/(?=\w+\/)/, ""), name]),
  );
  if (most.size > 0) {
    parts.push(
      `refused: ${[...most].slice(0, 2).map(([end, name]) => `${end} (${name})`).join("; ")}`,
    );
  } else if (refused?.[call] !== undefined) parts.push("refused: no difference");
  const [first, ...rest] = parts.join("; ");
  return first.toUpperCase() + rest.join("");
}

/** The document, of what each variant saw. */
export function documentText(all: { readonly [variant: string]: Seen }, policy: Policy): string {
  const calls = [...new Set(Object.values(all).flatMap(({ calls }) => Object.keys(calls)))].sort();
  const every = (call: string) =>
    policy.allowed.get(call)?.some((list) => !(list in LISTS)) ?? false;
  const allowed = [...policy.allowed.keys()].sort();
  const line = (call: string, reason?: string) =>
    item(
      `**${call}**: ${
        [reason, evidence(call, all)].filter((part) => part !== undefined).join(". ")
      }`,
    );
  const toTiles = (call: string) =>
    policy.allowed.get(call)?.some((list) => !/^(PROCESS|APPLIANCE)_/.test(list)) ?? false;
  const later = (call: string) =>
    Object.values(all).some(({ calls }) => calls[call]?.later ?? calls[call]?.threads);
  const section = (title: string, text: string, lines: string[]) =>
    `## ${title}\n\n${text}\n\n${lines.join("\n")}\n`;
  return [
    INTRODUCTION,
    section(
      "Machines",
      "The lists below use these names for machines, if a call was not seen on all of them.",
      Object.entries(all).map(([name, { machine }]) =>
        item(`${name}, ${VARIANTS[name].says}: ${machine}`)
      ),
    ),
    section(
      "Allowed to every tile",
      "Each has its reason, which names the arguments if only some are allowed.",
      allowed.filter(every).map((call) => line(call, REASONS[call])),
    ),
    ...Object.entries(LISTS).map(([list, says]) =>
      section(
        `Also allowed to ${says}`,
        list === "PROCESS_ARGUMENTS"
          ? "`make_app_policy` and `make_appliance_policy` in `ffi/policy.h`."
          : `\`${list}\` in \`ffi/policy.h\`.`,
        allowed.filter((call) => policy.allowed.get(call)!.includes(list) && !every(call))
          .map((call) => line(call, REASONS[call])),
      )
    ),
    section(
      "Expected and refused",
      "These calls fail with the error shown and are not counted. The same holds for opening files whose paths contain " +
        policy.paths.map((path) => `\`${path}\``).join(", ") + ".",
      [...policy.expected].map(([call, error]) => line(call, `${error}; ${EXPECTED[call]}`)),
    ),
    section(
      "Expected and refused to a process",
      "`PROCESS_EXPECTED` in `ffi/policy.h`. These calls fail with the error shown, in the appliance with " +
        "ENOSYS. They are neither counted nor logged.",
      [...policy.expectedOfProcesses].map(([call, error]) =>
        item(`**${call}**: ${error}; ${EXPECTED_OF_PROCESSES[call]}`)
      ),
    ),
    section(
      "Refused to tiles",
      "These calls are counted and named in the log. At least one workload makes them: code that does what " +
        "a tile may not do, or tries what it does not need.",
      calls.filter((call) => later(call) && !toTiles(call) && !policy.expected.has(call))
        .map((call) => line(call)),
    ),
    section(
      "Under the filter",
      "Each workload runs again in a process that is confined like an app's, with files to write if it needs " +
        "them. The workloads in this list end differently than without the filter, or have calls counted.",
      Object.entries(all.here.confined ?? {})
        .filter(([name, { end, refused }]) => end !== all.here.ends[name] || refused.length > 0)
        .map(([name, { end, refused }]) =>
          item(
            `**${name}**: ${end}${
              end === all.here.ends[name] ? " as without" : `, without ${all.here.ends[name]}`
            }` +
              (refused.length > 0 ? `; counted ${refused.join(", ")}` : ""),
          )
        ),
    ),
    section(
      "Only before confinement",
      "The worker's thread makes these calls while it loads modules.",
      [item(calls.filter((call) => !later(call)).join(", "))],
    ),
  ].join("\n");
}

const INTRODUCTION = `# System calls

This page lists the system calls that code in a tile makes, which of them the filters in \`ffi/policy.h\`
allow and why, and what happens if one is refused. \`scripts/syscalls\` generates it. A test compares it with
the policy, and checks that a short run makes no call that is missing here.

Each workload of \`tests/syscalls/workloads.ts\` runs in a worker under strace, in a process of its own. A mark
in the trace shows the moment of confinement. The filter must handle the calls that the worker's thread makes
*later*, and those of *threads* that it creates later. Then each call is refused alone, with EPERM after the
mark, in at most three workloads that make it. *No difference* means that these workloads end as before. Code
that tries many things continues after an error.

The filter of a process is installed before exec. The master's observer counts what an app's filter refuses. The
appliance's filter has no observer, because a thread can have only one and the filters of its tiles need it. A
call that it refuses outside of a tile fails with ENOSYS, and the kernel logs it (audit type 1326).

The model is Chromium's policy for renderers: threads only by clone, clone3 fails with ENOSYS, signals only to
the process itself, pkey_mprotect like mprotect. A list that fits only today's libc is not enough, so some calls
are allowed that no workload made.
`;

/** What is kept of all variants. */
export function kept(): { [variant: string]: Seen } {
  return Object.fromEntries(
    Object.keys(VARIANTS).flatMap((name) => {
      try {
        return [[name, JSON.parse(Deno.readTextFileSync(`${KEPT}/${name}.json`))]];
      } catch {
        return [];
      }
    }),
  );
}

if (import.meta.main) {
  const [first, names, known] = Deno.args;
  if (first === "record") {
    console.log(JSON.stringify(await observe(JSON.parse(names), { known: JSON.parse(known) })));
  } else if (first === "confine") {
    await confine(names, JSON.parse(known));
  } else {
    const variants = Deno.args.length > 0 ? Deno.args : Object.keys(VARIANTS);
    for (const name of variants) {
      if (name === "confined") await recordConfined();
      else if (name !== "nothing") await record(name);
    }
    const policy = readPolicy(Deno.readTextFileSync(`${ROOT}ffi/policy.h`));
    await Deno.writeTextFile(DOCUMENT, await formatted(documentText(kept(), policy), "md"));
  }
}
