// SPDX-License-Identifier: Apache-2.0
/** The npm packages of the program, in a separate folder. */

import { execFileSync } from "node:child_process";
import project from "../deno.json" with { type: "json" };
import { ROOT } from "../ffi/library.ts";

/**
 * Installs them into `folder`/node_modules, with a deno.json that names all imports, also those of
 * tests: otherwise the lock file would not match, and Deno would query the registry again.
 * `workspace` keeps Deno from searching for one in parent folders, where others may be able to write.
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
