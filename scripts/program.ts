// SPDX-License-Identifier: Apache-2.0
/**
 * Makes `build/program/`: the modules that run in confined processes (`ffi/process.ts`) as JavaScript, with
 * the packages that they use. Such a process has no cache, so Deno would compile TypeScript at each start.
 *
 *     build/program/apps/… ffi/… netbase/… tiles/…    each module; its imports name .js files
 *     build/program/imports.json               the import map of apps: packages, and apps/library/
 *     build/program/npm/NAME.js                the import map's packages; beside them node_modules/
 *     build/program/tiles/status/page/         the files of the status page for browsers, with uPlot
 */

import { execFileSync } from "node:child_process";
import { existsSync, globSync, rmSync } from "node:fs";
import { dirname, normalize, relative } from "node:path";
import { gzipSync } from "node:zlib";
import library from "../apps/library/imports.json" with { type: "json" };
import project from "../deno.json" with { type: "json" };
import { PROGRAM, ROOT } from "../ffi/library.ts";
import { installPackages } from "./packages.ts";

const FOLDERS = ["apps", "ffi", "netbase", "tiles"];
/** The files for browsers. Its modules import packages as files of the same folder. */
const PAGE = "tiles/status/page";
/** Names of packages in imports. A path within the package may follow. */
const PACKAGES = Object.keys(project.imports);

/** Rewrites imports in `text` to files in the program's folder. Adds imported packages to `packages`. */
function rewritten(path: string, text: string, packages: Set<string>): string {
  return text.replaceAll(/^((?:import|export)\b.*from |import )"(.*)";$/gm, (all, before, name) => {
    if (name.startsWith(".")) return `${before}"${name.replace(/\.ts$/, ".js")}";`;
    if (path.startsWith(`${fresh}/${PAGE}/`)) return `${before}"./${name}.js";`;
    if (!PACKAGES.includes(name.split("/")[0])) return all;
    packages.add(name);
    return `${before}"${relative(dirname(path), `${fresh}/${wrapper(name)}`)}";`;
  }).replaceAll(/\bimport\("(\..*?)\.ts"\)/g, 'import("$1.js")');
}

function wrapper(name: string): string {
  return `npm/${name.replace(/\.js$/, "").replaceAll("/", "_")}.js`;
}

/** Copies the packages and their dependencies into the program, with a module for each import. */
function addPackages(packages: ReadonlySet<string>): void {
  const place = `${fresh}/npm`;
  Deno.mkdirSync(place);
  using cleanup = new DisposableStack();
  const temporary = Deno.makeTempDirSync({ prefix: "tegula-program-" });
  cleanup.defer(() => Deno.removeSync(temporary, { recursive: true }));
  installPackages(temporary);
  const installed = `${temporary}/node_modules`;
  for (const name of packages) {
    const [first] = name.split("/");
    addPackage(first, `${installed}/${first}`, `${place}/node_modules`);
    Deno.writeTextFileSync(
      `${fresh}/${wrapper(name)}`,
      'import { createRequire } from "node:module";\n' +
        `export default createRequire(import.meta.url)("${name}");\n`,
    );
  }
  addPage(`${installed}/uplot/dist`);
}

/** Adds the page's other files, and minified uPlot as a module, and a compressed copy of each. */
function addPage(uplot: string): void {
  const page = `${fresh}/${PAGE}`;
  for (const name of ["index.html", "page.css"]) {
    Deno.copyFileSync(`${ROOT}${PAGE}/${name}`, `${page}/${name}`);
  }
  Deno.copyFileSync(`${uplot}/../LICENSE`, `${page}/uplot.LICENSE`);
  Deno.copyFileSync(`${uplot}/uPlot.min.css`, `${page}/uplot.css`);
  const script = Deno.readTextFileSync(`${uplot}/uPlot.iife.min.js`);
  Deno.writeTextFileSync(`${page}/uplot.js`, `${script}export default uPlot;\n`);
  for (const path of globSync(`${page}/*.{html,css,js}`)) {
    Deno.writeFileSync(`${path}.gz`, gzipSync(Deno.readFileSync(path), { level: 9 }));
  }
}

/** Copies the package at `path`, and its dependencies, which Deno stores beside it. */
function addPackage(name: string, path: string, place: string): void {
  const from = Deno.realPathSync(path);
  const description = JSON.parse(Deno.readTextFileSync(`${from}/package.json`));
  for (const file of globSync(`${from}/**/*.{js,cjs,json}`)) {
    const to = `${place}/${name}${file.slice(from.length)}`;
    Deno.mkdirSync(dirname(to), { recursive: true });
    Deno.copyFileSync(file, to);
  }
  const beside = from.slice(0, -name.length);
  for (const needed of Object.keys(description.dependencies ?? {})) {
    addPackage(needed, beside + needed, place);
  }
}

/** The imports of authors by name, from `apps/library/imports.json`, and the program's modules. */
function libraryImports(): [name: string, path: string][] {
  return Object.entries(library.imports).flatMap(([name, target]): [string, string][] => {
    const path = normalize(`apps/library/${target}`);
    if (!name.endsWith("/")) return [[name, `./${path.replace(/\.ts$/, ".js")}`]];
    return [...Deno.readDirSync(`${ROOT}${path}`)].filter((file) => file.name.endsWith(".ts"))
      .map((file) => [name + file.name, `./${path}${file.name.replace(/\.ts$/, ".js")}`]);
  });
}

const fresh = `${PROGRAM}.${Deno.pid}`;
try {
  const modules = FOLDERS.flatMap((folder) => globSync(`${folder}/**/*.ts`, { cwd: ROOT }));
  const transpile = ["transpile", "--quiet", "--outdir", fresh, ...modules];
  execFileSync(Deno.execPath(), transpile, { cwd: ROOT, stdio: "pipe" });
  const packages = new Set<string>();
  for (const path of globSync(`${fresh}/**/*.js`)) {
    Deno.writeTextFileSync(path, rewritten(path, Deno.readTextFileSync(path), packages));
  }
  addPackages(packages);
  const imports = [...packages].map((name) => [name, `./${wrapper(name)}`]);
  Deno.writeTextFileSync(
    `${fresh}/imports.json`,
    JSON.stringify({ imports: Object.fromEntries([...imports, ...libraryImports()]) }),
  );
  // Replace the old folder atomically, since processes may use it.
  const old = `${fresh}.old`;
  if (existsSync(PROGRAM)) Deno.renameSync(PROGRAM, old);
  Deno.renameSync(fresh, PROGRAM);
  rmSync(old, { recursive: true, force: true });
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
console.error("built build/program");
