// SPDX-License-Identifier: Apache-2.0
/**
 * What the attacks of `processes_test.ts` happen in: plain JavaScript as an app's process is, started
 * confined. Its worker echoes each message of the channel, blocking in between, as an app's tile does; its
 * main isolate has an event loop. A message that begins with `run ` is JavaScript, which the worker runs.
 *
 * Argument: a library to call the C library by.
 */

if (!("WorkerGlobalScope" in globalThis)) {
  const worker = new Worker(import.meta.url, { type: "module" });
  worker.postMessage(Deno.args[0]);
  setInterval(() => {}, 1000);
} else {
  self.onmessage = ({ data: library }) => {
    const { symbols } = Deno.dlopen(library, {
      poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
      read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
      write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    });
    const room = new Uint8Array(65_536);
    const set = new Int32Array([3, 1]);
    const write = (fd, bytes) => Number(symbols.write(fd, bytes, BigInt(bytes.length)));
    const say = (text) => write(3, new TextEncoder().encode(text));
    say("ready");
    for (;;) {
      if (symbols.poll(set, 1n, 1000) <= 0) continue;
      const bytes = room.subarray(0, Number(symbols.read(3, room, BigInt(room.length))));
      const text = new TextDecoder().decode(bytes);
      if (text.startsWith("run ")) new Function("write", "say", text.slice(4))(write, say);
      else write(3, bytes);
    }
  };
}
