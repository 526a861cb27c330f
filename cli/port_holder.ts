/**
 * Who has a UDP port: read from /proc, so that a refusal can name the program.
 */

/** A process that holds a socket. */
export interface Holder {
  readonly pid: number;
  readonly name: string;
}

/** The process whose UDP socket is bound to `port`, in this network namespace; null when unseen. */
export function portHolder(port: number): Holder | null {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  // proc_net(5): the local address and port stand second, the socket's inode tenth.
  const inode = ["udp", "udp6"].flatMap((table) =>
    readOrEmpty(`/proc/self/net/${table}`).split("\n")
  )
    .map((row) => row.trim().split(/\s+/)).find(([, local]) => local?.endsWith(suffix))?.[9];
  if (inode === undefined) return null;
  for (const { name: pid } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(pid) || !holds(pid, `socket:[${inode}]`)) continue;
    return { pid: Number(pid), name: readOrEmpty(`/proc/${pid}/comm`).trim() };
  }
  return null;
}

/** Whether a process has a descriptor of `target`; one that is gone, or another user's, is not seen. */
function holds(pid: string, target: string): boolean {
  const folder = `/proc/${pid}/fd`;
  try {
    return [...Deno.readDirSync(folder)].some(({ name }) =>
      Deno.readLinkSync(`${folder}/${name}`) === target
    );
  } catch {
    return false;
  }
}

function readOrEmpty(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}
