// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula status`: the health of a running tegula, for humans on one screen, and for scripts by JSON and exit status.
 */

import type { HealthState } from "../tiles/runtime/health.ts";
import { rangeText } from "../tiles/runtime/plan.ts";
import { delay } from "../tiles/runtime/tile.ts";
import { baseName } from "../tiles/status/capture.ts";
import { cellText, type Overview, overview, type Table } from "../tiles/status/page/overview.ts";
import { command, Exit, say, UserError } from "./command.ts";
import { CONTROL_OPTION, LastingControl, NotRunningError, type Status } from "./control.ts";
import { plain, scrape, tableLines } from "./top.ts";

const STATUSES: { readonly [state in HealthState]: number } = {
  ready: Exit.ok,
  starting: Exit.starting,
  draining: Exit.draining,
  unwell: Exit.unwell,
};
/** How long rates are measured. */
const PERIOD_MILLIS = 1000;
/** Columns if standard output is not a terminal. */
const WIDTH = 120;
const MOST_ROWS = 8;
/** The tables to show, by the titles of their first columns. */
const TABLES = ["interface", "port", "drops", "process"];

export default command({
  name: "status",
  usage: ["[-j] [--control PATH]"],
  about:
    `Prints how the running tegula is: its state and since when, what is wrong, what it serves, rates of
interfaces, ports and apps over a second, drops by reason, and its processes.`,
  options: {
    json: { type: "boolean", short: "j", help: "print JSON" },
    control: CONTROL_OPTION,
  },
  status:
    `0 ready, 9 starting, 10 draining, 11 unwell, 12 no tegula runs here, 3 not permitted, 1 it does not
answer.`,
}, async ({ values }) => {
  try {
    const control = new LastingControl(values.control);
    const before = await scrape(control);
    await delay(PERIOD_MILLIS);
    const shown = overview(before, await scrape(control), {
      nowSeconds: Date.now() / 1000,
      sort: "packets",
    });
    const { health, ...status } = await control.one<Status>({ do: "status" });
    if (health === null) throw new UserError("its main process has not reported yet", Exit.failure);
    const known = { ...status, health, control: control.path! };
    say(values.json ? JSON.stringify(asJson(known, shown)) : asText(known, shown));
    return STATUSES[health.state];
  } catch (error) {
    if (!(error instanceof NotRunningError)) throw error;
    throw new UserError(error.message, Exit.notRunning);
  }
});

/** The status of the running tegula, and the path of its control socket. */
interface Known extends Status {
  readonly health: NonNullable<Status["health"]>;
  readonly control: string;
}

function asText(
  { health, sync, listen, xdp, control }: Known,
  { rx, tx, drops, tables }: Overview,
): string {
  const { state, since, reasons, version, started, config, at } = health;
  const age = (millis: number) => cellText("seconds", (at - millis) / 1000);
  const rate = (value: number) => cellText("packets", value);
  const answering = new Set(
    listen.map(({ port, last = port, app }) => `${rangeText([port, last])}=${baseName(app)}`),
  );
  const width = Deno.stdout.isTerminal() ? Deno.consoleSize().columns : WIDTH;
  const chosen = tables.filter(({ columns: [{ title }] }) => TABLES.includes(title));
  return [
    `${state} for ${age(since)}`,
    ...reasons.map(({ text }) => `  ${text}`),
    `tegula ${version}, up ${age(started)}, asked at ${control}`,
    `configuration ${config ?? "by options"}; answering ${[...answering].join(" ")}`,
    `AF_XDP on ${xdp.join(" ") || "no interface"}; mirror ${sync}`,
    `rx ${rate(rx.packets)} pkt/s, tx ${rate(tx.packets)} pkt/s, drops ${rate(drops)}/s`,
    ...tableLines(chosen, chosen.map(({ rows }) => Math.min(rows.length, MOST_ROWS)), width)
      .map(plain),
  ].join("\n");
}

function asJson({ health, control, sync, listen, xdp }: Known, shown: Overview) {
  const { rx, tx, drops, tables } = shown;
  return {
    ...health,
    ...{ control, sync, listen, xdp },
    ...{ rx: rates(rx), tx: rates(tx), drops_per_second: drops },
    ...Object.fromEntries(tables.map((table) => [table.columns[0].title, objects(table)])),
  };
}

function rates({ packets, bytes }: Overview["rx"]) {
  return { packets_per_second: packets, bytes_per_second: bytes };
}

/** The rows of a table as objects: `rx pkt/s` is `rx_packets_per_second`. Unknown values are null. */
function objects({ columns, rows }: Table) {
  const keys = columns.map(({ title }, i) =>
    i === 0
      ? "name"
      : title.replace("pkt/s", "packets/s").replace("B/s", "bytes/s").replace("/s", " per second")
        .replaceAll(" ", "_")
  );
  return rows.map((row) => Object.fromEntries(row.map((cell, i) => [keys[i], cell])));
}
