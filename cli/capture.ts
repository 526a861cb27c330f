/**
 * `tegula capture`: shows the frames that a running appliance receives and sends, or only those that
 * it drops, each with its reason; as lines, or as a file for Wireshark.
 */

import { COUNTERS } from "../tiles/runtime/counters.ts";
import { appNames, type CapturedFrame, type Listening } from "../tiles/status/capture.ts";
import { locate } from "./app_config.ts";
import { CaptureFile } from "./capture_file.ts";
import { Control, LIVE_OPTIONS } from "./control.ts";
import { Exit, messageOf, UserError } from "./errors.ts";
import { command, type Given, oneOf, wholeNumber } from "./options.ts";
import { say, write } from "./output.ts";
import { VERSION } from "./self.ts";

const HELP = `usage: tegula capture [--drops] [--app NAME] [--count N] [-w FILE.pcapng]

Shows what the net tiles of a running tegula receive and send, until Ctrl-C. What they cannot show
in time is left out and counted; no datagram waits for it.

  --drops            only what is dropped, with the reason
  --app NAME         only datagrams from and to the ports of an app
  --count N          end after N
  -w, --write FILE   pcapng, for Wireshark and tshark, '-' for standard output: a drop's reason is its
                     comment; what goes by the kernel's sockets is shown as bare IPv4 packets
  --control PATH     by this control socket; without it the only one in /run/tegula
  --help             this`;

const OPTIONS = {
  drops: { type: "boolean" },
  app: { type: "string" },
  count: { type: "string" },
  write: { type: "string", short: "w" },
  control: LIVE_OPTIONS.control,
} as const;

export default command({ name: "capture", help: HELP, options: OPTIONS }, run);

async function run({ values }: Given<typeof OPTIONS>): Promise<number> {
  const most = values.count === undefined
    ? Infinity
    : wholeNumber(values.count, { option: "count", least: 1, most: 1e9 });
  const control = await Control.connect(values.control);
  const app = values.app === undefined ? {} : { app: await appOf(control, values.app) };
  const show = values.write === undefined ? print : fileWriter(values.write);
  let [shown, lost] = [0, 0];
  // Ctrl-C is no failure here; what was shown is written by then.
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
}

/** The app that is meant, among those that there are. Throws UserError. */
async function appOf(control: Control, given: string): Promise<string> {
  const { listen } = await control.one({ do: "status" });
  const allowed = appNames(listen as readonly Listening[]);
  return oneOf(locate(given, Deno.cwd()), { option: "app", allowed });
}

/** One line on standard output. */
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

/** By what it came or left: `-` for what was dropped before it left by anything. */
function where({ interface: name, direction, dropped }: CapturedFrame): string {
  const hasLeft = dropped === null || dropped === "tx_drop_socket_error";
  return name ?? (direction === "in" || hasLeft ? "kernel" : "-");
}

/** Its source address: `*` where none was chosen, or the kernel is to choose it. */
function source({ source }: CapturedFrame): string {
  return source === "0.0.0.0" ? "*" : `${source}`;
}

/** The counter's name, and what it counts. */
function reasonText(counter: string): string {
  const help: Record<string, string> = COUNTERS.net.help;
  return `${counter} (${help[counter] ?? "?"})`;
}

/** Writes frames to a pcapng file. Throws UserError when it cannot be made. */
function fileWriter(path: string): (frame: CapturedFrame) => void {
  const place = path === "-" ? {} : { to: create(path), name: path };
  const pcapng = new CaptureFile((bytes) => write(bytes, place), `tegula ${VERSION}`);
  return (frame) =>
    pcapng.packet(frame, frame.dropped === null ? "" : `dropped: ${reasonText(frame.dropped)}`);
}

function create(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path, { write: true, create: true, truncate: true });
  } catch (error) {
    throw new UserError(`cannot write ${path}: ${messageOf(error)}`, Exit.failure);
  }
}
