/**
 * What becomes of a start, up to where it would attach: its phases one after the other, with its sentences
 * and statuses. A tegula that runs and is to be reloaded hands its ports, interfaces and control socket
 * over, so what it has is free.
 */

import { SystemError } from "../ffi/errno.ts";
import { AppError } from "../tiles/runtime/thrown.ts";
import { checkMtus, InterfaceError } from "../tiles/runtime/interfaces_ready.ts";
import { portsOf } from "../tiles/runtime/ports.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { planApps } from "./apps.ts";
import { makeApps } from "./check_apps.ts";
import { type Finding, ok, warn } from "./check_findings.ts";
import { checkConfig, listenText, readConfig, type RunConfig } from "./config.ts";
import { controlPath } from "../master/listen.ts";
import { takeDefaults } from "./default_interfaces.ts";
import { Exit, UserError } from "./errors.ts";
import { openLibraries } from "../master/libraries.ts";
import {
  appTrouble,
  checkInterfaces,
  checkLimits,
  checkOccupants,
  checkPorts,
  checkPrivileges,
} from "../master/preflight.ts";
import { openMirror } from "./snapshot.ts";

/** What a tegula that runs says of itself, as far as it is asked here. */
export interface Running {
  readonly interfaces: readonly string[];
  readonly xdp: readonly string[];
  readonly listen: readonly { readonly port: number; readonly last?: number }[];
}

/** The phases, each as it is over. */
export async function* checkStart(
  values: Parameters<typeof readConfig>[0],
  ask: (control: string | undefined) => Promise<Running | null>,
): AsyncGenerator<Finding> {
  const libraries = openLibraries();
  const { host } = libraries;
  let config!: RunConfig;
  let apps!: readonly AppPlan[];
  const read = await phase("configuration", async () => {
    const asked = await readConfig(values);
    checkConfig(asked);
    apps = planApps(asked);
    const taken = asked.interfaces.length > 0
      ? []
      : takeDefaults(host, { isAllowed: false, log() {} });
    config = { ...asked, interfaces: [...asked.interfaces, ...taken] };
    return `${config.interfaces.join(" ")} answering ${listenText(config.listen)}`;
  });
  yield read;
  if (read.verdict !== "ok") return;

  const running = await ask(config.control);
  let hasStatus = running !== null;
  yield await phase("control socket", async () => {
    if (hasStatus) return "that of the tegula that runs";
    const path = await controlPath(config.control, { interfaces: config.interfaces, host });
    hasStatus = path !== null || config.metrics !== undefined;
    return path ?? "none";
  });
  yield await phase("privileges", () => {
    checkPrivileges(host, config);
    return "all that this takes";
  });
  yield await phase("interfaces", () => {
    checkInterfaces(host, config.interfaces);
    if (config.provider !== "socket") {
      const { mirror, reader } = openMirror({ log() {} });
      mirror.close();
      try {
        checkMtus(reader, config.interfaces);
      } catch (error) {
        if (!(error instanceof InterfaceError)) throw error;
        throw new UserError(error.message, Exit.interface);
      }
    }
    return config.interfaces.join(" ");
  });
  yield await phase("limits", () => {
    checkLimits(host, { ...config, apps, hasStatus, serves: running !== null });
    return "open files, locked memory and threads as this takes";
  });
  const served = running?.listen ?? [];
  const lines: string[] = [];
  yield await phase("ports", () => {
    const ours = portsOf(served.map(({ port, last = port }) => [port, last]));
    checkPorts(config, { libraries, ours, log: (line) => lines.push(line) });
    return "free, or of the tegula that runs";
  });
  for (const line of lines) yield warn("ports", line, "stop it, or take other ports");
  yield await phase("XDP", () => {
    if (config.provider === "socket") return "not asked for";
    const interfaces = config.interfaces.filter((name) => !running?.xdp.includes(name));
    checkOccupants({ ...config, interfaces }, libraries);
    return "no other program, but that of a tegula that runs";
  });
  for await (const { app, said, trouble } of makeApps(apps, host)) {
    yield await phase(`app ${app}`, () => {
      if (trouble instanceof AppError) throw appTrouble(trouble, { apps, file: config.file });
      if (trouble instanceof SystemError) throw new UserError(trouble.message, Exit.system);
      if (trouble !== undefined) throw trouble;
      return ["made", ...said].join("; ");
    });
  }
  yield* checkTypes(apps);
}

/** A phase that `look` passes with a sentence, or ends with what a start would end with. */
async function phase(subject: string, look: () => Promise<string> | string): Promise<Finding> {
  try {
    return ok(subject, await look());
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { verdict: "fail", subject, says: error.message, status: error.status };
  }
}

/** The modules that are TypeScript and no part of the program, as `deno check` has them. */
async function* checkTypes(apps: readonly AppPlan[]): AsyncGenerator<Finding> {
  const program = new URL("..", import.meta.url).href;
  for (const module of new Set(apps.map(({ module }) => module))) {
    if (!/\.[cm]?tsx?$/.test(module) || module.startsWith(`${program}apps/`)) continue;
    const path = decodeURIComponent(new URL(module).pathname);
    if (Deno.build.standalone) {
      yield ok("types", `${path}: not checked, there is no 'deno' here`);
      continue;
    }
    const child = new Deno.Command(Deno.execPath(), {
      args: ["check", "--quiet", "--no-lock", "--no-remote", path],
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
      ...{ stdin: "null", stdout: "null", stderr: "piped" },
    }).spawn();
    // It takes hundreds of megabytes: where that is too much for the service, it goes first.
    Deno.writeTextFileSync(`/proc/${child.pid}/oom_score_adj`, "1000");
    const { success, stderr } = await child.output();
    const [first, ...more] = new TextDecoder().decode(stderr).trim().split("\n");
    const place = /at (file:\S+)/.exec(more.join("\n"))?.[1] ?? path;
    yield success
      ? ok("types", `${path}: as 'deno check' wants them`)
      : warn("types", `${place}: ${first}`, `deno check ${path}`);
  }
}
