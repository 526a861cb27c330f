/**
 * `tegula upgrade`: has the appliance that runs go on with the program that is installed now.
 */

import { askForChange } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, say } from "./command.ts";

const HELP = `usage: tegula upgrade [--control PATH]

Has the running tegula execute the program that was installed in place of its own, with its configuration
and apps as they are now, and waits until that serves. It serves meanwhile, in the same process. Where
the new program does not start, nothing is changed. Where it is executed and cannot replace appliance and
apps, they go on as they were, under the new master.

  --control PATH     the control socket; without it the only one in /run/tegula
  --help             this

Exit status: 0 it goes on with that, 2 it was not done or none runs that could be asked, 3 it may not be
asked, 1 anything else.`;

const OPTIONS = { control: { type: "string" } } as const;

export default command(
  { name: "upgrade", help: HELP, options: OPTIONS },
  async ({ values: { control } }) => {
    say(await askForChange("upgrade", control));
    return Exit.ok;
  },
);
