/**
 * `tegula upgrade`: switches a running tegula to the program that is installed now.
 */

import { askForChange } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, say } from "./command.ts";

const HELP = `usage: tegula upgrade [--control PATH]

The running tegula executes the program that was installed in place of its own, with the current
configuration and apps; waits until the new one serves. It keeps serving meanwhile, and its process id stays.
If the new program does not start, nothing changes. If it starts but cannot replace appliance and apps,
these go on under the new master.

  --control PATH     the control socket; by default the only one in /run/tegula
  --help             print this

Exit status: 0 done, 2 not done, or no tegula runs here, 3 not permitted, 1 any other error.`;

const OPTIONS = { control: { type: "string" } } as const;

export default command(
  { name: "upgrade", help: HELP, options: OPTIONS },
  async ({ values: { control } }) => {
    say(await askForChange("upgrade", control));
    return Exit.ok;
  },
);
