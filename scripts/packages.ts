// SPDX-License-Identifier: Apache-2.0
/** The npm packages of the program, in a folder of their own. */

import { execFileSync } from "node:child_process";
import project from "../deno.json" with { type: "json" };
import { ROOT } from "../ffi/library.ts";

/**
 * Installs them into `folder`/node_modules, with a deno.json beside it. All imports are named there, also those of
 * tests: only then the lock file fits, and the registry is not asked again. `workspace`: Deno looks no further up for
 * one, where others may be able to write.
 */
export function installPackages(folder: string): void {
  const { version, workspace, unstable, imports } = project;
  const config = { version, workspace, unstable, imports, nodeModulesDir: "manual", lock: false };
  const [file, lock] = [`${folder}/deno.json`, `${folder}/deno.lock`];
  Deno.writeTextFileSync(file, JSON.stringify(config));
  Deno.copyFileSync(`${ROOT}deno.lock`, lock);
  const install = ["install", "--quiet", "--frozen", "--node-modules-dir=auto"];
  execFileSync(Deno.execPath(), [...install, "--config", file, "--lock", lock], { stdio: "pipe" });
}
