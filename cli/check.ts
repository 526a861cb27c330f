/**
 * `tegula check`: what on this host Tegula would not honour or would suffer from, each with a verdict and
 * the command that mends it.
 *
 * @module
 */

import { openHost } from "../ffi/host.ts";
import { libraryPath } from "../ffi/paths.ts";
import { checkHost, checkInterface, checkRoutes, type Finding } from "./check_findings.ts";
import { Exit, UserError } from "./errors.ts";
import { parseOptions } from "./options.ts";
import { openMirror } from "./snapshot.ts";

const HELP = `usage: tegula check [--interface IF…] [-j]

Looks at this host as 'tegula run' would find it: privileges, limits, policy rules and routes that Tegula
does not follow, and each interface that is named, or every Ethernet interface that is up. Changes nothing.

  --interface IF   an interface that Tegula is to run on; may be given again
  -j, --json       JSON
  --help           this

Exit status: 0 all is well, 1 something is not; then each such line has the command that mends it.`;

const OPTIONS = {
  interface: { type: "string", multiple: true },
  json: { type: "boolean", short: "j" },
  help: { type: "boolean", short: "h" },
} as const;

/** Prints what it finds; returns the exit status. */
export function check(args: string[]): Promise<number> {
  const { values } = parseOptions(args, { command: "check", options: OPTIONS });
  if (values.help) {
    console.log(HELP);
    return Promise.resolve(Exit.ok);
  }
  const findings = findAll(values.interface ?? []);
  if (values.json) console.log(JSON.stringify(findings));
  else for (const finding of findings) console.log(text(finding));
  const isWell = findings.every(({ verdict }) => verdict === "ok");
  return Promise.resolve(isWell ? Exit.ok : Exit.failure);
}

function findAll(names: readonly string[]): Finding[] {
  const host = openHost(libraryPath("host"));
  const notices: string[] = [];
  const { reader, mirror } = openMirror({ log: (line) => notices.push(line) });
  mirror.close();
  const { interfaces } = reader;
  const records = interfaces.records();
  for (const name of names) {
    if (records.some((record) => interfaces.name(record) === name)) continue;
    throw new UserError(
      `there is no interface '${name}'; 'ip link' lists those that there are`,
      Exit.interface,
    );
  }
  const wanted = records.filter((record) =>
    names.length > 0
      ? names.includes(interfaces.name(record))
      : interfaces.isUp(record) && interfaces.macHead(record) !== 0
  );
  return [
    ...checkHost(host, reader),
    ...checkRoutes(notices),
    ...wanted.flatMap((record) => checkInterface(host, interfaces, record)),
  ];
}

function text({ verdict, subject, says, fix }: Finding): string {
  const line = `${verdict.padEnd(4)} ${subject}: ${says}`;
  return fix === undefined ? line : `${line}\n       ${fix}`;
}
