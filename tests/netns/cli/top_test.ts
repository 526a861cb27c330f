// SPDX-License-Identifier: Apache-2.0
/** `tegula top`, in a terminal and elsewhere. */

import assert from "node:assert/strict";
import { selfCommand } from "../../../cli/command.ts";
import type { LabProcess, Namespace } from "../../../demo/lab.ts";
import {
  Appliance,
  CLIENT,
  type Client,
  ECHO,
  eventually,
  HOST,
  introduce,
  type Lab,
  labTest,
  pair,
  socketPath,
} from "../lab.ts";

/** What begins and ends the alternate screen. */
const [ENTER, LEAVE] = ["\x1b[?1049h", "\x1b[?1049l"];

/** A tegula with traffic, and its control socket. */
async function busy(lab: Lab): Promise<{
  host: Namespace;
  appliance: Appliance;
  asker: Client;
  control: string;
}> {
  const control = socketPath();
  const parts = await pair(lab);
  await introduce(parts);
  const appliance = await Appliance.start(parts.host, [...ECHO, "--control", control]);
  await parts.asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
  return { host: parts.host, asker: parts.asker, appliance, control };
}

function top(host: Namespace, control: string, ...args: string[]): LabProcess {
  return host.spawn([...selfCommand(), "top", "--control", control, ...args]);
}

/** The same in a terminal of `size`, `rows ROWS cols COLUMNS`; the shell says how it ended, and with what modes. */
function inTerminal(host: Namespace, control: string, size: string): LabProcess {
  const command = [...selfCommand(), "top", "--control", control].join(" ");
  const shell = `stty ${size}; ${command}; echo "status $?"; stty -a`;
  return host.spawn(["script", "--quiet", "--return", "--command", shell, "/dev/null"], {
    stdin: "piped",
  });
}

/** All that was printed. */
function printed({ stdout }: LabProcess): string {
  return stdout.all.join("\n");
}

/** The frames in what a terminal got, as lines without control sequences. */
function frames(text: string): string[][] {
  return text.slice(text.indexOf(ENTER)).split("\x1b[H").slice(1).map((frame) =>
    // deno-lint-ignore no-control-regex -- that is what it is about
    frame.replaceAll(/\x1b\[[?0-9;]*[A-Za-z]/g, "").split(/\r+\n/)
  );
}

/** The process of top under the terminal's shell. */
async function topUnder(host: Namespace, control: string): Promise<number> {
  return await eventually("top's process", async () => {
    const found = await host.run(["sh", "-c", `pgrep -f "[ ]top --control ${control}$" || true`]);
    const pids = found.trim().split("\n").map(Number).filter((pid) =>
      pid > 0 && /deno/.test(Deno.readTextFileSync(`/proc/${pid}/comm`))
    );
    return pids[0];
  });
}

labTest("top prints as many blocks as it is to, with the rates of a second each", async (lab) => {
  const { host, control } = await busy(lab);
  const process = top(host, control, "--count", "2");
  assert.equal((await process.ended()).code, 0, process.stderr.all.join("\n"));
  const blocks = printed(process).split("\n\n");
  assert.equal(blocks.length, 2);
  for (const block of blocks) {
    assert.match(block, /^tegula \d.*, ready, synced, restarts 0, /);
    // Where the machine is busy the client sends less in one second and more in the next.
    const [, rate] = /^rx ([\d.]+)k?\/s .* p50 \d\S* .?s p99 \d/m.exec(block) ?? [];
    assert.ok(Number(rate) > 0, block);
    assert.match(block, /^TILE +STATE +BUSY.*\n(?:.*\n)*net0 +runs +\d+% /m);
    assert.match(block, /^INTERFACE +MODE +RX PKT.*\neth0 +xdp +[1-9][\d.]*k? +[1-9][\d.]*[kM]? /m);
    assert.match(block, /^PORT +APP +RX PKT.*\n7 +echo +[1-9][\d.]*k? +[1-9][\d.]*[kM]? /m);
    assert.match(block, /^PROCESS .*\n(?:.*\n)*appliance +\d+% +\d/m);
    assert.ok(!block.includes("\x1b"));
  }
  // Its reader is gone: that is the end, and no error.
  const script = `{ ${
    selfCommand().join(" ")
  } top --control ${control}; echo "status $?" >&2; } | head -1`;
  const piped = host.spawn(["sh", "-c", script]);
  await piped.ended();
  assert.deepEqual([piped.stdout.all.length, piped.stderr.all], [1, ["status 0"]]);
});

labTest("top in a terminal fits into it, knows its keys, and leaves it as it was", async (lab) => {
  const { host, control } = await busy(lab);
  for (const [rows, columns] of [[24, 80], [50, 132], [6, 20]]) {
    const process = inTerminal(host, control, `rows ${rows} cols ${columns}`);
    const shown = await eventually("three frames", () => {
      const all = frames(printed(process));
      return Promise.resolve(all.length > 3 ? all.slice(0, 3) : undefined);
    });
    for (const lines of shown) {
      assert.equal(lines.length, rows);
      assert.ok(lines.every((line) => line.length <= columns), lines.join("\n"));
    }
    if (rows >= 24) {
      const last = shown.at(-1)!.join("\n");
      for (const table of ["INTERFACE", "APP", "TILE", "PROCESS"]) {
        assert.match(last, new RegExp(`^${table}`, "m"), last);
      }
      assert.match(last, /q ends, s sorts \(by packets\), p pauses/);
      await process.write("s");
      await eventually(
        "another order",
        () => Promise.resolve(printed(process).includes("(by bytes)") ? true : undefined),
      );
    }
    await process.write("q");
    await process.ended();
    assertRestored(printed(process), 0);
  }
});

for (const [signal, status] of [["SIGINT", 0], ["SIGTERM", 0], ["SIGHUP", 0]] as const) {
  labTest(`top leaves the terminal as it was after ${signal}`, async (lab) => {
    const { host, control } = await busy(lab);
    const process = inTerminal(host, control, "rows 24 cols 80");
    await process.stdout.find("");
    await eventually(
      "a frame",
      () => Promise.resolve(frames(printed(process)).length > 1 ? true : undefined),
    );
    Deno.kill(await topUnder(host, control), signal);
    await process.ended();
    assertRestored(printed(process), status);
  });
}

labTest("top gives the terminal back while it is suspended, and comes back", async (lab) => {
  const { host, control } = await busy(lab);
  const process = inTerminal(host, control, "rows 24 cols 80");
  const pid = await topUnder(host, control);
  const modes = async () => {
    const text = await host.run(["stty", "-F", Deno.readLinkSync(`/proc/${pid}/fd/0`), "-a"]);
    return /(?<!-)\bicanon\b/.test(text) ? "lines" : "keys";
  };
  await eventually("keys", async () => await modes() === "keys" ? true : undefined);
  Deno.kill(pid, "SIGTSTP");
  await eventually("that it is stopped", () => {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return Promise.resolve(/\) T /.test(stat) ? true : undefined);
  });
  assert.equal(await modes(), "lines");
  Deno.kill(pid, "SIGCONT");
  await eventually("keys again", async () => await modes() === "keys" ? true : undefined);
  await process.write("q");
  await process.ended();
  // deno-lint-ignore no-control-regex -- as above
  const entered = printed(process).match(/\x1b\[\?1049[hl]/g);
  assert.deepEqual(entered, [ENTER, LEAVE, ENTER, LEAVE]);
});

/** The screen was left once, after it was entered, and keys are echoed and come line by line again. */
function assertRestored(text: string, status: number): void {
  assert.equal(text.split(ENTER).length, 2);
  assert.equal(text.split(LEAVE).length, 2, text);
  const after = text.slice(text.indexOf(LEAVE));
  assert.ok(text.indexOf(ENTER) < text.indexOf(LEAVE));
  assert.match(after, new RegExp(`status ${status}\\b`));
  assert.match(after, /(?<!-)\bicanon\b/);
  assert.match(after, /(?<!-)\becho\b/);
}

labTest(
  "top goes on through a reload and an upgrade, and says that the tegula has ended",
  async (lab) => {
    const { host, appliance, control } = await busy(lab);
    const process = top(host, control);
    const blocks = () => printed(process).split("\n\n").length;
    const more = (count: number) => {
      const before = blocks();
      return eventually(
        `${count} more blocks`,
        () => Promise.resolve(blocks() >= before + count ? true : undefined),
      );
    };
    await more(1);
    for (const verb of ["reload", "upgrade"]) {
      await host.run([...selfCommand(), verb, "--control", control]);
      await more(2);
    }
    await appliance.stop();
    assert.equal((await process.ended()).code, 1);
    assert.deepEqual(process.stderr.all, ["tegula: the tegula has ended"]);
  },
);

labTest("top says where no tegula runs", async (lab) => {
  const { host } = await pair(lab);
  const process = top(host, "/nowhere/tegula.sock", "--once");
  assert.equal((await process.ended()).code, 2);
  assert.match(process.stderr.all.join("\n"), /^tegula: cannot connect to the tegula at \/nowhere/);
});
