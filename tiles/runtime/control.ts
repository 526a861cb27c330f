// SPDX-License-Identifier: Apache-2.0
/**
 * The control region: the orders of the appliance's main isolate to its tiles, and its requests to the
 * netlink tile on behalf of the status tile. That isolate writes it, and tiles read it. An app's
 * process has one that the master writes. The netlink tile's answers are in the snapshot region.
 */

import { slice, u32, u8, type View } from "../../ffi/region.ts";
import { delay } from "./tile.ts";

/** Bytes of the control region: one page. */
export const CONTROL_BYTES = 4096;

const STOP = 0;
/** The request's number, which changes after its other words are written. */
const REQUEST = 1;
const KIND = 2;
const ARGUMENTS_AT = 3;
/** The number of words for a request's arguments. */
const ARGUMENTS = 4;
const CAPTURE = ARGUMENTS_AT + ARGUMENTS;
const PULSE = CAPTURE + 1;
const LEAVE = PULSE + 1;
const SERVES = LEAVE + 1;
const CHANGING = SERVES + 1;
/** Restarts of the netlink tile and of the status tile, by slot. */
const RESTARTS_AT = CHANGING + 1;
/** A word for each configured interface, in order: 1 while AF_XDP receives its frames. */
const XDP_AT = RESTARTS_AT + 2;

/** What net tiles write to their capture rings (`tiles/net/capture.ts`). */
export const CaptureMode = { off: 0, all: 1, drops: 2 } as const;

/** Requests to the netlink tile. Its answers are in the snapshot region. */
export const Ask = {
  /** A part of all routes; arguments: prefix, its length, number of its routes to skip. */
  routes: 1,
  /** Compare the mirror with the kernel. */
  audit: 2,
  /** Set the capture mode; argument: `CaptureMode`. The main isolate does it, not the netlink tile. */
  capture: 3,
  /** For the master: reload the configuration, upgrade to the installed program; once for each number. */
  reload: 4,
  upgrade: 5,
  /** Also for the master: drain, or end draining. */
  drain: 6,
  undrain: 7,
} as const;

/** The outcome of a request to the master: a sentence, and an exit status if the request failed. */
export type Outcome =
  | { readonly ok: true; readonly line: string }
  | { readonly ok: false; readonly status: number; readonly line: string };

/** A request to the netlink tile: only plain numbers, because the status tile is not trusted with more. */
export interface ControlRequest {
  /** Not 0, and not the number of the previous request. */
  readonly number: number;
  readonly kind: number;
  /** Unsigned words, at most four. */
  readonly arguments: readonly number[];
}

/** Main's side. After a change, main wakes the affected tiles. */
export class ControlWriter {
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
  }

  /** Makes every tile finish its work and end. */
  stop(): void {
    Atomics.store(this.#words, STOP, 1);
    this.pulse();
  }

  /** Makes every tile leave to a successor after its turn, without draining. The caller wakes sleeping ones. */
  leave(): void {
    Atomics.store(this.#words, LEAVE, 1);
    this.pulse();
  }

  /** Marks this appliance as serving: there is no predecessor any more. */
  serve(): void {
    Atomics.store(this.#words, SERVES, 1);
    this.pulse();
  }

  /** Sets whether a successor is being started, which takes processors from the tiles. */
  set changing(isChanging: boolean) {
    Atomics.store(this.#words, CHANGING, isChanging ? 1 : 0);
    this.pulse();
  }

  /** Makes busy tiles check the clock. Called periodically, since their turns may be long. */
  pulse(): void {
    Atomics.add(this.#words, PULSE, 1);
  }

  /** Sets what net tiles capture, one of {@linkcode CaptureMode}. */
  set captureMode(mode: number) {
    Atomics.store(this.#words, CAPTURE, mode);
  }

  /** Sets whether AF_XDP receives the frames of the `i`-th interface. */
  setXdp(i: number, takes: boolean): void {
    Atomics.store(this.#words, XDP_AT + i, takes ? 1 : 0);
  }

  /** Counts a restart in place of the tile with this slot. */
  restarted(slot: number): void {
    this.#words[RESTARTS_AT + slot]++;
  }

  /** Replaces the last request, which must have been answered or abandoned. */
  ask(request: ControlRequest): void {
    this.#words[KIND] = request.kind;
    for (let i = 0; i < ARGUMENTS; i++) this.#words[ARGUMENTS_AT + i] = request.arguments[i] ?? 0;
    Atomics.store(this.#words, REQUEST, request.number);
  }
}

/** A tile's side. */
export class ControlReader {
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
  }

  get stopping(): boolean {
    return Atomics.load(this.#words, STOP) === 1;
  }

  /** Whether this tile must end after its current turn. */
  get leaving(): boolean {
    return Atomics.load(this.#words, LEAVE) === 1;
  }

  /** Whether this appliance serves: until then its predecessor owns the XDP programs' filters. */
  get serves(): boolean {
    return Atomics.load(this.#words, SERVES) === 1;
  }

  get changing(): boolean {
    return Atomics.load(this.#words, CHANGING) === 1;
  }

  /** Changes when tiles should check the clock and the words before this one. So the load is ordered. */
  get pulse(): number {
    return Atomics.load(this.#words, PULSE);
  }

  /** One of {@linkcode CaptureMode}. A plain load, since it is read every turn. */
  get captureMode(): number {
    return this.#words[CAPTURE];
  }

  /** Whether AF_XDP receives the frames of the `i`-th configured interface. */
  xdp(i: number): boolean {
    return Atomics.load(this.#words, XDP_AT + i) === 1;
  }

  /** How often the tile with this slot was restarted in place. */
  restarts(slot: number): number {
    return this.#words[RESTARTS_AT + slot];
  }

  /** Number of the last request; 0: there was none. */
  get requestNumber(): number {
    return Atomics.load(this.#words, REQUEST);
  }

  get request(): ControlRequest {
    return {
      number: this.requestNumber,
      kind: this.#words[KIND],
      arguments: [...this.#words.subarray(ARGUMENTS_AT, ARGUMENTS_AT + ARGUMENTS)],
    };
  }
}

// The snapshot region: the netlink tile's answers about state that only its heap has. One answer at a
// time, in lines of JSON. The netlink tile writes it. The status tile reads it; its requests go through
// main and the control region.
//
//     word 0  number of the answered request
//     word 1  bytes of the text
//     byte 64…  the text, UTF-8

export const SNAPSHOT_BYTES = 1 << 20;
const TEXT_AT = 64;
export const MOST_ANSWER_BYTES = SNAPSHOT_BYTES - TEXT_AT;

const NUMBER = 0;
const LENGTH = 1;
/** How long an answer may take; an audit of a full table takes seconds. */
const ANSWER_MILLIS = 120_000;
/** How often the answer is polled for. */
const POLL_MILLIS = 1;

/** Answers request `number`, on the netlink tile's side. RangeError: the text is too long. */
export function writeAnswer(snapshot: View, number: number, text: string): void {
  const words = u32(snapshot);
  const into = u8(slice(snapshot, TEXT_AT, MOST_ANSWER_BYTES));
  const { read, written } = new TextEncoder().encodeInto(text, into);
  if (read < text.length) throw new RangeError(`${text.length} characters are too many`);
  words[LENGTH] = written;
  Atomics.store(words, NUMBER, number);
}

/** An answer of the netlink tile: an object about it, and its lines, each with a newline. */
export interface Told<Head> {
  readonly head: Head;
  readonly lines: string;
}

/** Asks the netlink tile (`Ask`), after earlier requests are answered. Rejects if the answer is late. */
export type Question = <Head>(kind: number, ...words: readonly number[]) => Promise<Told<Head>>;

/** The status tile's side: asks one question at a time. `ask` passes a request to main. */
export function questioner(
  { control, snapshot }: { control: View; snapshot: View },
  ask: (request: ControlRequest) => void,
  { timeoutMs = ANSWER_MILLIS } = {},
): Question {
  const words = u32(snapshot);
  const bytes = u8(slice(snapshot, TEXT_AT, MOST_ANSWER_BYTES));
  // Continues from a predecessor's last number.
  let number = new ControlReader(control).requestNumber;
  let last: Promise<unknown> = Promise.resolve();
  const answerTo = async (kind: number, args: readonly number[]) => {
    number = number === 0xffffffff ? 1 : number + 1;
    ask({ number, kind, arguments: args });
    const deadline = performance.now() + timeoutMs;
    // Polled: for a notify V8 would write, on the netlink tile's thread, to an eventfd of this tile's
    // event loop, which that thread may not do.
    while (Atomics.load(words, NUMBER) !== number) {
      if (performance.now() > deadline) throw new Error("the netlink tile does not answer");
      await delay(POLL_MILLIS);
    }
    // TextDecoder does not accept shared memory.
    const text = new TextDecoder().decode(bytes.slice(0, words[LENGTH]));
    const end = text.indexOf("\n");
    return { head: JSON.parse(text.slice(0, end)), lines: text.slice(end + 1) };
  };
  return (kind, ...args) => {
    const answer = last.then(() => answerTo(kind, args));
    last = answer.catch(() => {});
    return answer;
  };
}
