/**
 * `tegula reload`: loads the configuration and apps of a running tegula anew.
 */

import { askForChange } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, say } from "./command.ts";

const HELP = `usage: tegula reload [--control PATH]

The running tegula reads its configuration and the files of its apps anew; waits until they are in use. It
keeps serving meanwhile. If there is an error in them, nothing changes; 'tegula check --config FILE' finds
errors beforehand.

  --control PATH     the control socket; by default the only one in /run/tegula
  --help             print this

Exit status: 0 done, 2 not done, or no tegula runs here, 3 not permitted, 1 any other error.`;

const OPTIONS = { control: { type: "string" } } as const;

export default command(
  { name: "reload", help: HELP, options: OPTIONS },
  async ({ values: { control } }) => {
    say(await askForChange("reload", control));
    return Exit.ok;
  },
);
