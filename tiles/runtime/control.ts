// SPDX-License-Identifier: Apache-2.0
/**
 * The control region: what the appliance's main isolate tells its tiles, and what it asks the netlink tile
 * on behalf of the status tile. That isolate writes it, and tiles read it. An app's process has one that
 * the master writes. The answers of the netlink tile are in the snapshot region.
 */

import { slice, u32, u8, type View } from "../../ffi/region.ts";
import { delay } from "./tile.ts";

/** Bytes of the control region: one page. */
export const CONTROL_BYTES = 4096;

const STOP = 0;
/** The request's number, which moves once its other words are written. */
const REQUEST = 1;
const KIND = 2;
const ARGUMENTS_AT = 3;
/** Words that a request has for its arguments. */
const ARGUMENTS = 4;
const CAPTURE = ARGUMENTS_AT + ARGUMENTS;
const PULSE = CAPTURE + 1;
const LEAVE = PULSE + 1;
const SERVES = LEAVE + 1;
const CHANGING = SERVES + 1;
/** Restarts of the netlink tile and of the status tile, by slot. */
const RESTARTS_AT = CHANGING + 1;
/** A word for each interface that was to be attached, in order: 1 while AF_XDP takes its frames. */
const XDP_AT = RESTARTS_AT + 2;

/** What net tiles put into their capture rings (`tiles/net/capture.ts`). */
export const CaptureMode = { off: 0, all: 1, drops: 2 } as const;

/** What the netlink tile can be asked for. Answers come in the snapshot region. */
export const Ask = {
  /** A part of all routes; arguments: prefix, its length, how many of its routes to leave out. */
  routes: 1,
  /** To compare the mirror with the kernel. */
  audit: 2,
  /** To set the capture mode; argument: `CaptureMode`. The main isolate does it, not the netlink tile. */
  capture: 3,
  /** For the master: reload the configuration, upgrade to the installed program; once for each number. */
  reload: 4,
  upgrade: 5,
  /** For the master, too: to have no new traffic, or to have it again. */
  drain: 6,
  undrain: 7,
} as const;

/** The outcome of a request to the master: a sentence, and an exit status if it was not done. */
export type Outcome =
  | { readonly ok: true; readonly line: string }
  | { readonly ok: false; readonly status: number; readonly line: string };

/** A request to the netlink tile: plain numbers, for the status tile is trusted with no more. */
export interface ControlRequest {
  /** Not 0, and not the number of the request before. */
  readonly number: number;
  readonly kind: number;
  /** Unsigned words, at most four. */
  readonly arguments: readonly number[];
}

/** Main's side. After a change, main wakes the tiles that it concerns. */
export class ControlWriter {
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
  }

  /** Asks every tile to finish what it has and end. */
  stop(): void {
    Atomics.store(this.#words, STOP, 1);
    this.pulse();
  }

  /** Asks every tile to leave to a successor after its turn, without draining. The caller wakes sleeping ones. */
  leave(): void {
    Atomics.store(this.#words, LEAVE, 1);
    this.pulse();
  }

  /** Says that this appliance serves: there is no predecessor, or not any more. */
  serve(): void {
    Atomics.store(this.#words, SERVES, 1);
    this.pulse();
  }

  /** Says whether a successor is being started, which takes processors from the tiles. */
  set changing(isChanging: boolean) {
    Atomics.store(this.#words, CHANGING, isChanging ? 1 : 0);
    this.pulse();
  }

  /** Makes busy tiles look at the clock. To be called now and then, since their turns may be long. */
  pulse(): void {
    Atomics.add(this.#words, PULSE, 1);
  }

  /** Says what net tiles are to show, one of {@linkcode CaptureMode}. */
  set captureMode(mode: number) {
    Atomics.store(this.#words, CAPTURE, mode);
  }

  /** Says of the `i`-th interface whether AF_XDP takes its frames. */
  setXdp(i: number, takes: boolean): void {
    Atomics.store(this.#words, XDP_AT + i, takes ? 1 : 0);
  }

  /** Counts that the tile with this slot was started again in place. */
  restarted(slot: number): void {
    this.#words[RESTARTS_AT + slot]++;
  }

  /** Puts a request in place of the last one, which must have been answered or given up. */
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

  /** Whether this tile is to end after its current turn. */
  get leaving(): boolean {
    return Atomics.load(this.#words, LEAVE) === 1;
  }

  /** Whether this appliance serves: until then its predecessor has the XDP programs' filters. */
  get serves(): boolean {
    return Atomics.load(this.#words, SERVES) === 1;
  }

  get changing(): boolean {
    return Atomics.load(this.#words, CHANGING) === 1;
  }

  /** Changes when tiles should look at the clock and the words before this one. So the load is ordered. */
  get pulse(): number {
    return Atomics.load(this.#words, PULSE);
  }

  /** One of {@linkcode CaptureMode}. A plain load, since it is read every turn. */
  get captureMode(): number {
    return this.#words[CAPTURE];
  }

  /** Whether AF_XDP takes the frames of the `i`-th interface that was to be attached. */
  xdp(i: number): boolean {
    return Atomics.load(this.#words, XDP_AT + i) === 1;
  }

  /** How often the tile with this slot was started again in place. */
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

// The snapshot region: the netlink tile's answers about state that only its heap has. One answer at a time,
// in lines of JSON. The netlink tile writes it. The status tile reads it; its requests go through main
// and the control region.
//
//     word 0  number of the request that the answer is to
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
  if (read < text.length) throw new RangeError(`${text.length} characters are no answer`);
  words[LENGTH] = written;
  Atomics.store(words, NUMBER, number);
}

/** An answer of the netlink tile: an object about it, and its lines, each with its end. */
export interface Told<Head> {
  readonly head: Head;
  readonly lines: string;
}

/** Asks the netlink tile (`Ask`), after earlier requests have their answers. Rejects if there is none in time. */
export type Question = <Head>(kind: number, ...words: readonly number[]) => Promise<Told<Head>>;

/** The status tile's side: asks one question at a time. `ask` brings a request to main. */
export function questioner(
  { control, snapshot }: { control: View; snapshot: View },
  ask: (request: ControlRequest) => void,
  { timeoutMs = ANSWER_MILLIS } = {},
): Question {
  const words = u32(snapshot);
  const bytes = u8(slice(snapshot, TEXT_AT, MOST_ANSWER_BYTES));
  // Continues from where a predecessor stopped.
  let number = new ControlReader(control).requestNumber;
  let last: Promise<unknown> = Promise.resolve();
  const answerTo = async (kind: number, args: readonly number[]) => {
    number = number === 0xffffffff ? 1 : number + 1;
    ask({ number, kind, arguments: args });
    const deadline = performance.now() + timeoutMs;
    // It is polled for: a notify would have V8 write, on the netlink tile's thread, to an eventfd of this tile's
    // event loop, which that thread may not.
    while (Atomics.load(words, NUMBER) !== number) {
      if (performance.now() > deadline) throw new Error("the netlink tile does not answer");
      await delay(POLL_MILLIS);
    }
    // TextDecoder does not read shared memory.
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
