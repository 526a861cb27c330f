/**
 * `tegula reload`: has the appliance that runs go on by its configuration and apps as they are now.
 */

import { askForChange } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, say } from "./command.ts";

const HELP = `usage: tegula reload [--control PATH]

Has the running tegula read its configuration and its apps' files anew, and waits until it goes on by them.
It serves meanwhile. Where something is wrong with them it goes on as it was: 'tegula check --config FILE'
tells beforehand.

  --control PATH     the control socket; without it the only one in /run/tegula
  --help             this

Exit status: 0 it goes on by them, 2 it was not done or none runs that could be asked, 3 it may not be
asked, 1 anything else.`;

const OPTIONS = { control: { type: "string" } } as const;

export default command(
  { name: "reload", help: HELP, options: OPTIONS },
  async ({ values: { control } }) => {
    say(await askForChange("reload", control));
    return Exit.ok;
  },
);
