// SPDX-License-Identifier: Apache-2.0
/**
 * The log: standard error, so that stdout stays free. If systemd reads it for the journal, each
 * line begins with its level (sd-daemon(3)); otherwise without one.
 */

import { attempt } from "../ffi/library.ts";
import { Level } from "../tiles/runtime/log.ts";

/** Writes a line; false if it is lost. */
let write = (line: string): boolean => {
  console.error(line);
  return true;
};
/** Lines that could not be written since the last one that could. */
let lost = 0;

/** Makes `writer`, which does not block, write all further lines. Lost lines are counted. */
export function logBy(writer: (line: string) => boolean): void {
  write = writer;
}

export function log(text: string, level: number = Level.info): void {
  for (const line of text.split("\n")) {
    const words = `${lost} log lines were lost because they could not be written`;
    if (lost > 0 && write(`${prefix(Level.warning)}${words}`)) lost = 0;
    if (!write(`${prefix(level)}${line}`)) lost++;
  }
}

/** The prefix of lines of this level. */
export function prefix(level: number): string {
  return isJournal ? `<${level}>` : "";
}

/** Whether standard error is the stream that systemd has opened to the journal (systemd.exec(5)). */
const isJournal = attempt(() => {
  const { dev, ino } = Deno.statSync("/proc/self/fd/2");
  return Deno.env.get("JOURNAL_STREAM") === `${dev}:${ino}`;
}, false);
