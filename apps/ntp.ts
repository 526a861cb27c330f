// SPDX-License-Identifier: Apache-2.0
/**
 * A time server (NTP, RFC 5905, server mode) that serves the kernel's clock, which chrony, ntpd or
 * a hardware clock synchronises. If the kernel reports that its clock is not synchronised, the
 * answers do so, too. `docs/apps.md` has the options.
 */

import type { App, AppContext } from "../tiles/app/contract.ts";
import { TokenBuckets } from "./library/token_buckets.ts";
import { numberOption, wholeOption } from "./options.ts";

/** Seconds from 1900 to the Unix epoch (RFC 868). */
const UNIX_EPOCH = 2_208_988_800;
const PACKET_BYTES = 48;
/** Modes (RFC 5905 figure 10). */
const [CLIENT, SERVER] = [3, 4];
/** How a packet expresses stratum 16, unsynchronised (RFC 5905 §7.3). */
const UNSYNCHRONISED = { leap: 3, stratum: 0 };
/** Kiss codes (RFC 5905 §7.4), as reference IDs. */
const [INIT, RATE] = [0x494e4954, 0x52415445];
/** One of this many limited requests gets a kiss-o'-death packet. */
const KISS_EVERY = 4;
/** About a microsecond, the time it takes to read the clock, as a power of two seconds. */
const PRECISION = -20;

/** Makes the time server. Throws TypeError if it was not granted the clock. */
export default function create(context: AppContext): App {
  const { clock, options, refuses, metric } = context;
  if (clock === undefined) throw new TypeError("it was not granted the clock (clock = true)");
  const { reference = "127.127.1.1" } = options;
  const stratum = wholeOption(options, "stratum", { usual: 3, least: 1, most: 15 });
  const referenceId = toReferenceId(String(reference), stratum, context);
  const perSecond = numberOption(options, "ratelimit", { usual: 0, least: 0, most: 1e6 });
  const burst = wholeOption(options, "burst", { usual: 8, least: 1, most: 1e6 });
  const limit = perSecond === 0 ? null : new TokenBuckets({ perSecond, burst });
  const limited = metric("ntp.limited", "counter")!;
  let state = clock.status();
  let updated = clock.now();

  return {
    tick() {
      state = clock.status();
      updated = clock.now();
    },
    receive(requests, out) {
      while (requests.next()) {
        const { bytes, offset, size } = requests;
        const version = (bytes[offset] >>> 3) & 7;
        if (size < PACKET_BYTES || (bytes[offset] & 7) !== CLIENT || version < 1 || version > 4) {
          continue;
        }
        if (refuses(requests)) continue;
        const isLimited = limit?.take(requests.sourceAddress, requests.receivedAt / 1e6) === false;
        if (isLimited && limited.value++ % KISS_EVERY !== 0) continue;
        const at = out.reserve(PACKET_BYTES);
        if (at < 0) continue;
        const isServed = state.synchronised && !isLimited;
        const { leap, stratum: told } = isServed
          ? { leap: state.leap === 1 ? 1 : state.leap === -1 ? 2 : 0, stratum }
          : UNSYNCHRONISED;
        out.bytes[at] = (leap << 6) | (version << 3) | SERVER;
        out.bytes[at + 1] = told;
        out.bytes[at + 2] = bytes[offset + 2];
        out.bytes[at + 3] = PRECISION;
        put(out.bytes, at + 4, 0); // root delay: unknown, as only the sum of all errors is known
        put(out.bytes, at + 8, Math.min(state.maxErrorMicros / 1e6 * 0x10000, 0xffffffff));
        put(out.bytes, at + 12, isLimited ? RATE : state.synchronised ? referenceId : INIT);
        if (isServed) putTime(out.bytes, at + 16, updated);
        else out.bytes.fill(0, at + 16, at + 24);
        for (let i = 0; i < 8; i++) out.bytes[at + 24 + i] = bytes[offset + 40 + i];
        putTime(out.bytes, at + 32, requests.receivedAt);
        putTime(out.bytes, at + 40, clock.now());
        out.reply(at, PACKET_BYTES);
      }
    },
  };
}

/** Converts letters for stratum 1, else an address (RFC 5905 §7.3). */
function toReferenceId(reference: string, stratum: number, { parseAddress }: AppContext): number {
  if (stratum > 1) {
    const address = parseAddress(reference);
    if (address !== null) return address.words[3];
  } else if (/^[\x20-\x7e]{1,4}$/.test(reference)) {
    return [...reference.padEnd(4, "\0")].reduce(
      (word, letter) => word * 256 + letter.charCodeAt(0),
      0,
    );
  }
  throw new TypeError("options.reference: must be an IPv4 address; for stratum 1, four letters");
}

function put(bytes: Uint8Array, at: number, word: number): void {
  bytes[at] = word / 0x1000000;
  bytes[at + 1] = word >>> 16;
  bytes[at + 2] = word >>> 8;
  bytes[at + 3] = word;
}

/** Writes nanoseconds since 1970 as a timestamp: seconds since 1900 and their fraction, 32 bits each. */
function putTime(bytes: Uint8Array, at: number, nanoseconds: number): void {
  const seconds = Math.floor(nanoseconds / 1e9);
  put(bytes, at, seconds + UNIX_EPOCH);
  put(bytes, at + 4, (nanoseconds - seconds * 1e9) / 1e9 * 2 ** 32);
}
