/**
 * `tegula upgrade`: switches a running tegula to the program that is installed now.
 */

import { askForChange, CHANGE_STATUS, CONTROL_OPTION } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, say } from "./command.ts";

export default command(
  {
    name: "upgrade",
    usage: ["[--control PATH]"],
    about:
      `The running tegula executes the program that was installed in place of its own, with the current
configuration and apps; waits until the new one serves. It keeps serving meanwhile, and its process id stays.
If the new program does not start, nothing changes. If it starts but cannot replace appliance and apps,
these go on under the new master.`,
    options: { control: CONTROL_OPTION },
    status: CHANGE_STATUS,
  },
  async ({ values: { control } }) => {
    say(await askForChange("upgrade", control));
    return Exit.ok;
  },
);
