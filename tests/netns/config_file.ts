// SPDX-License-Identifier: Apache-2.0
/** Configuration files for tests, removed when the test file has ended. */

const FOLDER = Deno.makeTempDirSync({ prefix: "tegula-config-files-" });
// Processes of other users read the files.
Deno.chmodSync(FOLDER, 0o755);
let count = 0;

globalThis.addEventListener("unload", () => Deno.removeSync(FOLDER, { recursive: true }));

/** Writes a file with this content and returns its path. */
export function temporaryFile(content: string | Uint8Array, suffix = ""): string {
  const path = `${FOLDER}/${count++}${suffix}`;
  if (typeof content === "string") Deno.writeTextFileSync(path, content);
  else Deno.writeFileSync(path, content);
  return path;
}

/** Writes a configuration for the interface eth0 and returns the arguments for it. */
export function configured(text: string): string[] {
  return ["--config", temporaryFile(`interfaces = ["eth0"]\n${text}`, ".toml")];
}
