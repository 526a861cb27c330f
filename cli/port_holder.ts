/**
 * Who has a UDP port: read from /proc, so that a refusal can name the program.
 *
 * @module
 */

/** A process that holds a socket. */
export interface Holder {
  readonly pid: number;
  readonly name: string;
}

/** The process whose UDP socket is bound to `port`, in this network namespace; null when unseen. */
export function portHolder(port: number): Holder | null {
  const inode = socketInode(port);
  return inode === null ? null : processWithSocket(inode);
}

/** Inode of the socket bound to `port`, from /proc/net/udp (proc_net(5)). */
function socketInode(port: number): string | null {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  for (const table of ["/proc/self/net/udp", "/proc/self/net/udp6"]) {
    for (const line of readOrEmpty(table).split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields[1]?.endsWith(suffix)) return fields[9];
    }
  }
  return null;
}

function processWithSocket(inode: string): Holder | null {
  for (const { name: pid } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      for (const { name: fd } of Deno.readDirSync(`/proc/${pid}/fd`)) {
        if (Deno.readLinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`) {
          return { pid: Number(pid), name: readOrEmpty(`/proc/${pid}/comm`).trim() };
        }
      }
    } catch {
      // Gone meanwhile, or another user's: it cannot be named then.
    }
  }
  return null;
}

function readOrEmpty(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}
