/**
 * Names what an app begins in a handler and what never ends there: no event loop runs in a handler, so
 * promises do not settle and timers do not fire. Each kind is named once.
 *
 * Promises are seen by V8's hook for their creation, which is called for no other reason: the loop and
 * a handler that makes none do not notice it. It sees whatever is made of promises: fetch, files, crypto.subtle, async functions. Timers are none, so the functions
 * that start them are replaced before the app is loaded.
 */

/** Functions that start what has no promise. */
const TIMERS = ["setTimeout", "setInterval", "setImmediate", "queueMicrotask"] as const;

type Starter = (callback: (...given: unknown[]) => void, ...rest: unknown[]) => unknown;

/** What Deno has of V8's; an unstable part, so it may be missing. */
const core = (Deno as unknown as Record<symbol, {
  core?: {
    setPromiseHooks?(...hooks: (((promise: Promise<unknown>) => void) | undefined)[]): void;
  };
}>)[(Deno as unknown as { internal: symbol }).internal]?.core;

/** Timers of an app, from before it is loaded. */
export interface Timers {
  /** Where those were started that have not fired or been ended. */
  pending(): string[];
  /** From now on nothing fires: `tell` hears of each that is started. */
  freeze(tell: (name: string) => void): void;
}

/** Replaces the functions that start timers by such as keep account of them. */
export function watchTimers(): Timers {
  const scope = globalThis as unknown as Record<string, Starter & ((id: unknown) => void)>;
  const running = new Map<unknown, { name: string; at: Error }>();
  let frozen: ((name: string) => void) | undefined;
  for (const name of TIMERS) {
    const start = scope[name];
    if (start === undefined) continue;
    const watched: Starter = (callback, ...rest) => {
      if (frozen !== undefined) {
        frozen(name);
        return start(callback, ...rest);
      }
      if (name === "queueMicrotask" || typeof callback !== "function") {
        return start(callback, ...rest);
      }
      const id = start((...given) => {
        if (name !== "setInterval") running.delete(id);
        callback(...given);
      }, ...rest);
      running.set(id, { name, at: new Error() });
      return id;
    };
    scope[name] = Object.assign(watched, start) as typeof start;
  }
  for (const name of ["clearTimeout", "clearInterval", "clearImmediate"]) {
    const end = scope[name];
    if (end === undefined) continue;
    scope[name] = ((id: unknown) => {
      running.delete(id);
      end(id);
    }) as typeof end;
  }
  return {
    pending: () =>
      [...running.values()].map(({ name, at }) => `${name}${placeOf(at.stack ?? "").place}`),
    freeze: (tell) => frozen = tell,
  };
}

/** Names by `log` what never ends, from now on: the event loop does not run again. */
export function nameUnsettled(log: (line: string) => void, timers?: Timers): void {
  const [left] = timers?.pending() ?? [];
  if (left !== undefined) {
    log(`create() left a timer running (${left}), which never fires again: no event loop runs now`);
  }
  let saysTimer = true;
  timers?.freeze((name) => {
    if (!saysTimer) return;
    saysTimer = false;
    const { handler, place } = here();
    log(
      `${handler}() started a timer (${name}${place}), which never fires there: ` +
        "no event loop runs in a handler",
    );
  });
  let saysPromise = true;
  core?.setPromiseHooks?.(() => {
    if (!saysPromise) return;
    saysPromise = false;
    const { handler, place, call } = here();
    log(
      `${handler}() made a promise (${call}${place}), which never settles there: ` +
        "no event loop runs in a handler",
    );
  });
}

/** Which handler is running, and where. */
function here(): ReturnType<typeof placeOf> {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 100;
  const { stack = "" } = new Error();
  Error.stackTraceLimit = stackTraceLimit;
  return placeOf(stack);
}

/** This folder, whose frames are no app's, but for those that ship. */
const OWN = new URL("./", import.meta.url).href;
const RUNNERS = ["unsettled", "service", "plain", "tile"].map((name) => `${OWN}${name}.`);

/** What a stack says of the app: the handler, ` at FILE:LINE`, and what it called there. */
function placeOf(stack: string): { handler: string; place: string; call: string } {
  const frames = stack.split("\n").filter((line) => line.startsWith("    at "));
  const isOurs = (frame: string) => RUNNERS.some((runner) => frame.includes(runner));
  const first = frames.findIndex((frame) => frame.includes("file://") && !isOurs(frame));
  const handler = frames.some((frame) => frame.includes("Service.clock"))
    ? "tick"
    : frames.some((frame) => frame.includes(`${OWN}plain.`))
    ? "answer"
    : "receive";
  if (first < 0) return { handler, place: "", call: "by Deno" };
  const [, file = "?", line = "?"] = /file:\/\/(.*?):(\d+)(?::\d+)?\)?$/.exec(frames[first]) ?? [];
  const callee = frames.slice(0, first).findLast((frame) => !frame.includes("file://"));
  const [, call = "async"] = /^ +at (?:async )?(?:new )?([\w.]+) \(/.exec(callee ?? "") ?? [];
  return { handler, place: ` at ${decodeURI(file)}:${line}`, call };
}
