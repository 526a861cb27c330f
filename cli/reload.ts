/**
 * `tegula reload`: loads the configuration and apps of a running tegula anew.
 */

import { askForChange, CHANGE_STATUS, CONTROL_OPTION } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, say } from "./command.ts";

export default command(
  {
    name: "reload",
    usage: ["[--control PATH]"],
    about:
      "The running tegula reads its configuration and the files of its apps anew; waits until they are " +
      "in use. It keeps serving meanwhile. If there is an error in them, nothing changes; " +
      "'tegula check --config FILE' finds errors beforehand.",
    options: { control: CONTROL_OPTION },
    status: CHANGE_STATUS,
  },
  async ({ values: { control } }) => {
    say(await askForChange("reload", control));
    return Exit.ok;
  },
);
