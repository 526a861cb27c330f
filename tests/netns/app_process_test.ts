/**
 * Apps in processes of their own, without the rest of an appliance: what ends one, that it alone is
 * started again, and that nothing of it costs an echo beside it a datagram.
 */

import { strict as assert } from "node:assert";
import { closeFiles, EchoLink } from "../../bench/process_slice.ts";
import { ROOT } from "../../ffi/paths.ts";
import type { AppProcessPlan } from "../../master/app_process.ts";
import { eventually } from "./eventually.ts";

const HOSTILE = `file://${ROOT}tests/fixtures/app/hostile.ts`;
/** Signals of the kernel are what ends a process here, under load from elsewhere, too. */
const PATIENCE_MS = 60_000;

/** Runs `act` with the app of `module` beside an echo that is asked all the while. */
async function beside(
  module: string,
  act: (its: {
    link: EchoLink;
    app: ReturnType<EchoLink["process"]>;
    lines: string[];
    said(pattern: RegExp): Promise<string>;
  }) => Promise<void>,
  changes: Partial<AppProcessPlan> = {},
): Promise<void> {
  const [link, other] = [new EchoLink("hostile"), new EchoLink("echo")];
  const lines: string[] = [];
  const app = link.process(link.plan(module, changes), (line) => lines.push(line));
  const echo = other.process(other.plan(), (line) => lines.push(line));
  await Promise.all([app.start(), echo.start()]);
  const { pid } = echo;
  const load = setInterval(() => {
    other.send(4);
    other.take();
  }, 2);
  try {
    await act({
      link,
      app,
      lines,
      said: (pattern) =>
        eventually(() => lines.find((line) => pattern.test(line)), {
          timeoutMs: PATIENCE_MS,
          describe: () => `${pattern} in\n${lines.slice(-50).join("\n")}`,
        }),
    });
    const { answered } = other;
    await eventually(() => other.answered > answered + 100, { timeoutMs: PATIENCE_MS });
  } finally {
    clearInterval(load);
    await other.settle(PATIENCE_MS / 1000);
    await Promise.all([app.stop(), echo.stop()]);
  }
  assert.equal(other.answered, other.sent);
  assert.equal(other.repeated, 0);
  assert.equal(lines.some((line) => line.startsWith("echo:")), false, lines.join("\n"));
  assert.notEqual(pid, 0);
  for (const each of [link, other]) each.close();
}
