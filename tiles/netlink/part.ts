/**
 * The parts that the mirror consists of, as its synchroniser sees them: each takes the events of
 * some message types, and can be read anew by mark and sweep while what it has goes on being
 * served.
 */

import type { DumpKind, MessageCursor } from "./codec.ts";

/** The parts, as bits of a set, in the order in which they are read: each needs those before it. */
export const Part = { interfaces: 1, rules: 2, nextHops: 4, routes: 8, neighbors: 16 } as const;

/** All of them. */
export const ALL_PARTS = 31;

/** One part. */
export interface MirrorPart {
  /** Which of {@linkcode Part} it is. */
  readonly bit: number;
  /** The dumps that tell all of it, in order. */
  readonly dumps: readonly DumpKind[];
  /** The types of messages that are about it. */
  readonly types: readonly number[];
  /** Some kernels are built without it: a refusal to dump it means that there is none. */
  readonly optional?: boolean;
  /** Its events say where among others their subject goes, so they must not come before a dump. */
  readonly ordered?: boolean;
  /**
   * Applies an event and returns the set of parts that may be stale in consequence. `replayed`: it
   * comes behind a dump that may have been made after it.
   */
  event(message: MessageCursor, replayed: boolean): number;
  /** Begins a mark and sweep, or begins it anew. */
  beginSync(): void;
  /** Applies a message of a dump. */
  dumped(message: MessageCursor): void;
  /** Ends it: what was neither dumped nor told by an event since `beginSync` goes. */
  endSync(): void;
}

/** What is worth a line in the log, each thing once; what is not supported is also counted. */
export class Notices {
  /** Messages about things that are not supported. */
  unsupported = 0;
  readonly #said = new Set<string>();
  readonly #log: (line: string) => void;

  constructor(log: (line: string) => void) {
    this.#log = log;
  }

  /** Says `line` unless it was said before. At most 256 different ones, then no more. */
  once(line: string): void {
    if (this.#said.size >= MOST_NOTICES || this.#said.has(line)) return;
    this.#said.add(line);
    this.#log(line);
  }

  /** Counts a thing that is not supported and names it once. */
  unsupportedThing(line: string): void {
    this.unsupported++;
    this.once(`not supported: ${line}`);
  }
}

const MOST_NOTICES = 256;
