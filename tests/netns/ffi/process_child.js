// SPDX-License-Identifier: Apache-2.0
/**
 * What `process_test.ts` has run in a confined process, in plain JavaScript as an app's process is.
 * Arguments: what to do, the library of attacks, that of regions, a file that it may not read, and its
 * name.
 */

const [work, attacks, regionLibrary, forbidden, name] = Deno.args;
const native = Deno.dlopen(attacks, {
  attack: { parameters: ["i32"], result: "i32" },
  attack_name: { parameters: ["i32", "buffer"], result: "i32" },
  map_writable: { parameters: ["i32", "i32"], result: "i32" },
  crash: { parameters: [], result: "void" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
}).symbols;

function say(message) {
  const bytes = new TextEncoder().encode(JSON.stringify(message));
  native.write(3, bytes, BigInt(bytes.length));
}

/** The outcome of `attempt` as text. */
async function tried(attempt) {
  try {
    return `done: ${await attempt()}`;
  } catch (error) {
    return `${error.name}`;
  }
}

/** Errors of all attacks whose name is like `pattern`, by name. */
function attackErrors(pattern) {
  const errors = {};
  const room = new Uint8Array(64);
  for (let i = 0, length; (length = native.attack_name(i, room)) > 0; i++) {
    const name = new TextDecoder().decode(room.subarray(0, length));
    if (pattern.test(name)) errors[name] = native.attack(i);
  }
  return errors;
}

const works = {
  ready() {
    say({ ready: true });
    setInterval(() => {}, 1000);
  },
  attack: () => say({ errors: attackErrors(/./) }),
  async honest() {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new Uint8Array(3)));
    const worker = new Worker("data:text/javascript,postMessage(1 + 1)", { type: "module" });
    const answer = await new Promise((resolve) => {
      worker.onmessage = ({ data }) => resolve(data);
    });
    worker.terminate();
    // Half a second after its start Deno makes a thread for signals, which panics when it is refused.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    say({
      honest: {
        digest: digest.length,
        worker: answer,
        own: (await Deno.readTextFile(new URL(import.meta.url))).length > 0,
        file: await tried(() => Deno.readTextFile(forbidden)),
        command: await tried(() => new Deno.Command("/bin/true").output()),
        connect: await tried(() => Deno.connect({ hostname: "127.0.0.1", port: 9 })),
        memory: Deno.memoryUsage().rss > 0,
        date: new Date(0).toISOString(),
        random: crypto.getRandomValues(new Uint8Array(4)).length,
        path: Deno.execPath(),
      },
    });
  },
  async granted() {
    const { port, file } = JSON.parse(Deno.env.get("TASK"));
    const connection = await Deno.connect({ hostname: "127.0.0.1", port });
    await connection.write(new Uint8Array([7]));
    const answer = new Uint8Array(1);
    await connection.read(answer);
    const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    await socket.send(new Uint8Array([9]), socket.addr);
    const [datagram] = await socket.receive();
    Deno.writeTextFileSync(file, "written");
    Deno.renameSync(file, `${file}.new`);
    say({
      granted: {
        answer: answer[0],
        datagram: datagram[0],
        file: Deno.readTextFileSync(`${file}.new`),
        other: await tried(() => Deno.writeTextFileSync(`${file}/../../other`, "")),
        elsewhere: await tried(() => Deno.connect({ hostname: "127.0.0.1", port: port ^ 1 })),
        clock: attackErrors(/adjtimex/),
        errors: attackErrors(/^open|mkdir|fork|^execve|memfd|ptrace|socket UNIX/),
      },
    });
    Deno.removeSync(`${file}.new`);
    // Its namespaces are looked at before it is ended.
    setInterval(() => {}, 1000);
  },
  async regions() {
    const { openRegions } = await import(regionLibrary.replace(/[^/]*$/, "region.js"));
    const regions = openRegions(regionLibrary);
    Deno.permissions.revokeSync({ name: "ffi" });
    const own = regions.mapShared(4, 4096);
    const theirs = regions.mapShared(5, 4096, { readOnly: true });
    const read = new Uint32Array(theirs.buffer)[0];
    new Uint32Array(own.buffer)[0] = read + 1;
    say({
      regions: {
        read,
        seen: new Uint32Array(theirs.buffer)[0],
        open: await tried(() => regions.mapShared(5, 4096)),
        load: await tried(() => openRegions(regionLibrary)),
        errors: [native.map_writable(5, 0), native.map_writable(5, 1)],
      },
    });
  },
  spin() {
    say({ ready: true });
    for (;;);
  },
  heap() {
    const kept = [];
    for (;;) kept.push(new Array(100_000).fill(kept.length));
  },
  buffers() {
    const kept = [];
    try {
      for (;;) kept.push(new Uint8Array(16 << 20).fill(1));
    } catch (error) {
      say({ buffers: kept.length * 16, error: error.name });
    }
  },
  crash: () => native.crash(),
  exit: () => Deno.exit(7),
  abort: () => Deno.kill(Deno.pid, "SIGABRT"),
  answer() {
    const room = new Uint8Array(64);
    setInterval(() => {
      const count = Number(native.read(3, room, 64n));
      if (count <= 0) return;
      const asked = new TextDecoder().decode(room.subarray(0, count));
      console.log(`asked ${asked}`);
      if (asked === "attack") attackErrors(/ptrace/);
      native.write(3, room, BigInt(count));
    }, 1);
  },
  name: () => console.log(name),
  long: () => console.log("x".repeat(4096)),
  talk() {
    for (let i = 0; i < 2000; i++) console.log(`line ${i}\x1b[31m`);
    throw new Error("last words");
  },
};

await works[work]();
