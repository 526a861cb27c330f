/**
 * `tegula audit`: compares the mirror of a running tegula with the kernel.
 */

import type { AuditReport } from "../tiles/netlink/audit.ts";
import { Control, CONTROL_OPTION } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, type Given, JSON_OPTION, say } from "./command.ts";

const OPTIONS = {
  json: { ...JSON_OPTION, help: "print JSON" },
  control: CONTROL_OPTION,
} as const;

export default command({
  name: "audit",
  usage: ["[-j] [--control PATH]"],
  about:
    `The running tegula reads the kernel's interfaces, routes and neighbours again and compares them with
its mirror. A difference counts if two reads show it and no event announced it between them. It is logged and
corrected. An audit also runs every five minutes by itself.`,
  options: OPTIONS,
  status: "0 no difference, 1 a difference or no answer, 2 no tegula runs here, 3 not permitted.",
}, run);

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
