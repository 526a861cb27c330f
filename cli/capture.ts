// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula capture`: shows the frames that a running tegula receives and sends, or only those that it
 * drops, with the reason. Prints lines, or writes a pcapng file (draft-ietf-opsawg-pcapng) for Wireshark.
 */

import { COUNTERS } from "../tiles/runtime/counters.ts";
import { appNames, type CapturedFrame } from "../tiles/status/capture.ts";
import { locate } from "./config.ts";
import { Control, CONTROL_OPTION, type Status } from "./control.ts";
import {
  command,
  Exit,
  fileTrouble,
  oneOf,
  say,
  UserError,
  VERSION,
  wholeNumber,
  write,
} from "./command.ts";
import { Buffer } from "node:buffer";

export default command({
  name: "capture",
  usage: ["[--drops] [--app NAME] [--count N] [-w FILE.pcapng]"],
  about:
    `Shows the frames that the net tiles of a running tegula receive and send, until Ctrl-C. A frame that
cannot be captured in time is left out and counted; no datagram waits for it.`,
  options: {
    drops: { type: "boolean", help: "only frames that are dropped, with the reason" },
    app: { type: "string", value: "NAME", help: "only datagrams from and to the ports of an app" },
    count: { type: "string", value: "N", help: "end after N frames" },
    write: {
      type: "string",
      short: "w",
      value: "FILE",
      help:
        "write pcapng, for Wireshark and tshark; '-' is standard output. The reason of a drop is the " +
        "comment of its packet. Traffic of the kernel's sockets has no Ethernet header",
    },
    control: CONTROL_OPTION,
  },
}, async ({ values }) => {
  const most = values.count === undefined
    ? Infinity
    : wholeNumber(values.count, { option: "count", least: 1, most: 1e9 });
  const control = await Control.connect(values.control);
  const app = values.app === undefined ? {} : { app: await appOf(control, values.app) };
  const show = values.write === undefined ? print : fileWriter(values.write);
  let [shown, lost] = [0, 0];
  // Ctrl-C is the usual end, with status 0. All shown frames have been written by then.
  const end = (): never => {
    console.error(`${shown} captured, ${lost} lost`);
    Deno.exit(Exit.ok);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, end);
  for await (const entry of control.list({ do: "capture", drops: values.drops ?? false, ...app })) {
    if ("lost" in entry) lost = Number(entry.lost);
    if ("capturing" in entry) console.error("capturing, Ctrl-C ends it");
    if (!("frame" in entry)) continue;
    show(entry as unknown as CapturedFrame);
    if (++shown === most) break;
  }
  return end();
});

/** Returns the name of the app `given`. Throws UserError if it is not served. */
async function appOf(control: Control, given: string): Promise<string> {
  const { listen } = await control.one<Status>({ do: "status" });
  const allowed = appNames(listen);
  return oneOf(locate(given, Deno.cwd()), { option: "app", allowed });
}

function print(frame: CapturedFrame): void {
  const time = new Date(Number(frame.time) * 1000).toISOString().slice(11, 19);
  const fraction = frame.time.slice(frame.time.indexOf("."));
  const ends = frame.source === undefined
    ? "no UDP over IPv4"
    : `${source(frame)}:${frame.sourcePort} > ${frame.destination}:${frame.destinationPort}`;
  const reason = frame.dropped === null ? "" : ` dropped: ${reasonText(frame.dropped)}`;
  say(
    `${time}${fraction} ${where(frame)} ${
      frame.direction.padEnd(3)
    } ${ends} ${frame.size} bytes${reason}`,
  );
}

/** The interface that received or sent it; `-` if it was dropped before it was sent. */
function where({ interface: name, direction, dropped }: CapturedFrame): string {
  const hasLeft = dropped === null || dropped.startsWith("tx_drop_socket_");
  return name ?? (direction === "in" || hasLeft ? "kernel" : "-");
}

/** Its source address; `*` if none was chosen, or the kernel chooses it. */
function source({ source }: CapturedFrame): string {
  return source === "0.0.0.0" ? "*" : `${source}`;
}

/** The name of a drop counter, and what it counts. */
function reasonText(counter: string): string {
  const help: Record<string, string> = COUNTERS.net.help;
  return `${counter} (${help[counter] ?? "?"})`;
}

/** Returns a function that writes frames to a pcapng file. Throws UserError if it cannot be created. */
function fileWriter(path: string): (frame: CapturedFrame) => void {
  const place = path === "-" ? {} : { to: create(path), name: path };
  const packet = beginCapture((bytes) => write(bytes, place), `tegula ${VERSION}`);
  return (frame) =>
    packet(frame, frame.dropped === null ? "" : `dropped: ${reasonText(frame.dropped)}`);
}

function create(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path, { write: true, create: true, truncate: true });
  } catch (error) {
    throw new UserError(`cannot write ${fileTrouble(error)}`, Exit.failure);
  }
}

const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE_DESCRIPTION = 1;
const ENHANCED_PACKET = 6;
/** Option codes: of every block, of a section, of an interface, of a packet. */
const OPT_COMMENT = 1;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const EPB_FLAGS = 2;

/** LINKTYPE_* of https://www.tcpdump.org/linktypes.html. */
const LINK_TYPES = { ethernet: 1, ipv4: 228 } as const;
/** Bits 0 and 1 of epb_flags. */
const DIRECTIONS = { in: 1, out: 2 } as const;

/**
 * Begins a pcapng file of version 1.0 and unknown length, created by `application`: a section header, an interface
 * block for each interface and link type when it is first seen, and an enhanced packet block for each frame. Lengths
 * are multiples of four. The byte order is the writer's, which is little-endian on every machine this runs on.
 *
 * Returns a function that writes a frame, with a comment unless it is "".
 */
export function beginCapture(write: (bytes: Uint8Array) => void, application: string) {
  const fields = words(BYTE_ORDER_MAGIC, 1, 0xffffffff, 0xffffffff);
  write(block(SECTION_HEADER, fields, option(SHB_USERAPPL, Buffer.from(application)), END));
  const interfaces = new Map<string, number>();
  return ({ time, link, direction, size, ...captured }: CapturedFrame, comment: string) => {
    const name = captured.interface ?? "unknown";
    const number = interfaces.getOrInsertComputed(`${name} ${link}`, () => {
      const named = option(IF_NAME, Buffer.from(name));
      write(block(INTERFACE_DESCRIPTION, words(LINK_TYPES[link], 0), named, END));
      return interfaces.size;
    });
    const micros = BigInt(time.replace(".", ""));
    const [high, low] = [Number(micros >> 32n), Number(micros & 0xffffffffn)];
    const bytes = Uint8Array.fromHex(captured.frame);
    write(block(
      ENHANCED_PACKET,
      words(number, high, low, bytes.length, size),
      padded(bytes),
      ...comment === "" ? [] : [option(OPT_COMMENT, Buffer.from(comment))],
      option(EPB_FLAGS, words(DIRECTIONS[direction])),
      END,
    ));
  };
}

function words(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** opt_endofopt. */
const END = words(0);

function padded(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes], (bytes.length + 3) & ~3);
}

function option(code: number, value: Uint8Array): Uint8Array {
  return Buffer.concat([words(value.length << 16 | code), padded(value)]);
}

/** A block: its type, its length before and after the body. */
function block(type: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const body = Buffer.concat(parts);
  const length = words(body.length + 12);
  return Buffer.concat([words(type), length, body, length]);
}
