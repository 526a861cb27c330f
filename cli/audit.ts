/**
 * `tegula audit`: has the appliance that runs compare its mirror with the kernel.
 */

import type { AuditReport } from "../tiles/netlink/audit.ts";
import { Control } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, type Given, say } from "./command.ts";

const HELP = `usage: tegula audit [-j] [--control PATH]

Has the running tegula read the kernel's interfaces, routes and neighbours anew and compare them with
what it has mirrored. A difference counts when two readings show it and no event named it meanwhile; it is
logged and put right. It does this by itself every five minutes.

  -j, --json         JSON
  --control PATH     the control socket; without it the only one in /run/tegula
  --help             this

Exit status: 0 nothing differed, 1 something did or it does not answer, 2 none runs that could be asked, 3 it
may not be asked.`;

const OPTIONS = {
  json: { type: "boolean", short: "j" },
  control: { type: "string" },
} as const;

export default command({ name: "audit", help: HELP, options: OPTIONS }, run);

async function run({ values }: Given<typeof OPTIONS>): Promise<number> {
  const control = await Control.connect(values.control);
  const report = await control.one({ do: "audit" }) as unknown as AuditReport;
  if (values.json) say(JSON.stringify(report));
  else printTables(report);
  return report.divergent === 0 ? Exit.ok : Exit.failure;
}

function printTables({ tables }: AuditReport): void {
  for (const [table, { entries, divergent }] of Object.entries(tables)) {
    say(`${table.padEnd(10)} ${entries} entries, ${divergent} divergent`);
  }
}
