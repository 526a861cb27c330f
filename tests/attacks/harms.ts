// SPDX-License-Identifier: Apache-2.0
/**
 * What an app does that means harm to others by what it may do: to spin, to fill what is bounded, to end in
 * every way, to flood what it shares. To try one more, add it to `HARMS`: what it is, what it runs, and
 * what has to come of it. `processes_test.ts` runs each in a process of its own, and `program_test.ts` in
 * an app of the running program.
 */

import type { Ending } from "../../ffi/process.ts";

/** What an app does that means harm to others by what it may do. */
export interface Harm {
  /** JavaScript that its tile runs; `write(fd, bytes)` is write(2), `say(text)` tells the master. */
  readonly runs?: string;
  /** How it ends by itself, as far as that is known; left out: whoever watches it ends it. */
  readonly ends?: Partial<Ending>;
  /** It continues answering. */
  readonly goesOn?: boolean;
  /** Whether it ends depends on what fails first. */
  readonly mayGoOn?: boolean;
  /**
   * Not for an app of the running program: Deno has no interface to these descriptors, or its tile makes
   * something else of it.
   */
  readonly processOnly?: boolean;
}

/** To try one more, add it here: what it is, what runs, and what has to come of it. */
export const HARMS: Readonly<Record<string, Harm>> = {
  "it spins": { runs: "for (;;);" },
  "it spins in a regular expression": { runs: "/(x+x+)+y/.test('x'.repeat(60));" },
  "its heap overflows": {
    runs: "const kept = []; for (;;) kept.push(new Array(100_000).fill(kept.length));",
    ends: { signal: 5 },
  },
  "it fills its memory": {
    runs: "const kept = []; try { for (;;) kept.push(new Uint8Array(16 << 20).fill(1)); } " +
      "catch { say('no more'); }",
    mayGoOn: true,
  },
  "it fills WebAssembly's memory": {
    runs: "const kept = []; try { for (;;) kept.push(new Uint8Array(new WebAssembly.Memory({ " +
      "initial: 1024, maximum: 1024 }).buffer).fill(1)); } catch { say('no more'); }",
    mayGoOn: true,
  },
  "its stack overflows": {
    runs: "const down = () => down() + 1; try { down(); } catch { say('no more'); }",
    goesOn: true,
  },
  "its worker exits": { runs: "Deno.exit(7);" },
  // It is the first process of its namespace, which ignores what it sends itself.
  "it signals itself": {
    runs: "Deno.kill(Deno.pid, 'SIGABRT'); say('it goes on');",
    goesOn: true,
  },
  "it throws": { runs: "throw new Error('last words');", ends: { status: 1 }, processOnly: true },
  "it makes threads without end": {
    runs:
      "for (let i = 0; i < 200; i++) new Worker('data:text/javascript,for(;;);', { type: 'module' });",
    mayGoOn: true,
  },
  "it writes a line without an end": {
    runs: "for (let i = 0; i < 300; i++) write(2, new Uint8Array(4096).fill(120)); say('written');",
    goesOn: true,
  },
  "it writes many lines": {
    runs:
      "for (let i = 0; i < 3000; i++) write(1, new TextEncoder().encode('app1: a lie\\x1b[2J\\n')); say('written');",
    goesOn: true,
  },
  "it floods its channel": {
    runs:
      "for (let i = 0; i < 100000; i++) write(3, new Uint8Array(i % 4096)); for (;;) write(3, new Uint8Array(9));",
    processOnly: true,
  },
  "it sends what is too long": {
    runs: "for (const size of [65537, 1 << 20]) write(3, new Uint8Array(size)); say('sent');",
    processOnly: true,
  },
  "it writes to what it may only read": {
    runs: "say(String(write(5, new Uint8Array(8))));",
    goesOn: true,
    processOnly: true,
  },
};
