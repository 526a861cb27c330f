// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula withdraw`: removes the markers of a killed tegula. The unit runs it whenever the service
 * has ended. It loads few modules, and ignores errors elsewhere in the file: until it is done,
 * routers send clients to a host that does not answer.
 */

import { parse } from "smol-toml";
import { Markers, markerText } from "../master/announcer.ts";
import { MARKER_TABLE } from "../tiles/netlink/rtnetlink.ts";
import { command, configText, Exit, say, UserError } from "./command.ts";
import { EPERM, SystemError } from "../ffi/library.ts";

export default command({
  name: "withdraw",
  usage: ["[--config FILE]"],
  about:
    "Removes the markers of [announce] that a killed tegula left, so that routers send no more traffic " +
    "to this host. The unit does so whenever the service has ended. A tegula that runs puts its markers " +
    "back within a second: use 'tegula drain' there. Needs CAP_NET_ADMIN.",
  options: {
    config: {
      type: "string",
      value: "FILE",
      help: `the file that names the table ([announce] table); by default table ${MARKER_TABLE}`,
    },
  },
  status: "0 done, or there were none, 2 wrong usage, 3 a missing privilege, 1 any other error.",
}, async ({ values: { config } }) => {
  const table = config === undefined ? MARKER_TABLE : await tableIn(config);
  try {
    const removed = new Markers().clear(table).map(markerText);
    if (removed.length > 0) say(`withdrawn: ${removed.join(", ")}`);
    return Exit.ok;
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    const isForbidden = error.errno === EPERM;
    throw new UserError(
      isForbidden ? `${error.message}: this needs CAP_NET_ADMIN; run it as root` : error.message,
      isForbidden ? Exit.privilege : Exit.failure,
    );
  }
});

/** The table from the file, or the default. */
async function tableIn(path: string): Promise<number> {
  try {
    const { announce } = parse(await configText(path)) as { announce?: { table?: unknown } };
    return typeof announce?.table === "number" ? announce.table : MARKER_TABLE;
  } catch {
    console.error(`cannot read ${path}: using table ${MARKER_TABLE}`);
    return MARKER_TABLE;
  }
}
