// SPDX-License-Identifier: Apache-2.0
/**
 * Memory reclamation for all of netbase: when can next hops, tbl8s, records and whole tables that
 * readers no longer find be reused? Read-copy-update by quiescent states, as in the kernel and in
 * DPDK's rte_rcu_qsbr.
 *
 * The writer fills a record while nobody can see it, publishes it by one store, and never changes it
 * afterwards. To change it, the writer publishes another in its place and `retire`s the old one. A
 * reader may use what it has found until its next quiescent state (one per burst); after that it holds
 * nothing.
 *
 * Correctness: a retired item was made unreachable by a store before `#seal()` reads the readers' burst
 * counters. A reader that has the item found it in a burst that had begun by then, and that burst ends
 * with the next change of its counter. So once the counter differs from the value seen at `#seal()`, or
 * the reader is marked asleep, it does not hold the item, and later bursts cannot find it:
 * `NetbaseReader.refresh()` opens each with a sequentially consistent load after the tile's
 * sequentially consistent store of counter or sleep word, and on x86-64 as on arm64 (`stlr` before
 * `ldar`) no later load passes that pair.
 *
 * Inside a burst readers use plain loads. A slot or cell names a record, so the address of the record's
 * load depends on the load of the slot, and no processor that runs JavaScript reorders those; the
 * writer publishes by a release store (`Atomics.store`), or by plain stores after `fence()`. V8 neither
 * removes nor merges loads from array buffers, and does not move them across an `Atomics` operation. No
 * reader ever waits or retries.
 */

/** A reader as netbase's writer sees it; a `TileReader` fits. */
export interface Reader {
  /** Changes when the reader passes a quiescent state. */
  readonly burst: number;
  /** The reader blocks and holds nothing. */
  readonly asleep: boolean;
}

/** A grace period: over when every reader has passed a quiescent state, and sees all stores before its begin. */
export class Grace {
  readonly #readers: readonly Reader[];
  readonly #bursts: Uint32Array;
  /** 1: this reader has passed a quiescent state. */
  readonly #passed: Uint8Array;

  constructor(readers: readonly Reader[]) {
    this.#readers = readers;
    this.#bursts = Uint32Array.from(readers, (reader) => reader.burst);
    this.#passed = new Uint8Array(readers.length);
  }

  get over(): boolean {
    let over = true;
    for (let i = 0; i < this.#readers.length; i++) {
      if (this.#passed[i] === 1) continue;
      const reader = this.#readers[i];
      if (reader.asleep || reader.burst !== this.#bursts[i]) this.#passed[i] = 1;
      else over = false;
    }
    return over;
  }

  /** Begins again if no reader's burst counter has changed since; returns whether it did. */
  restart(): boolean {
    if (this.#readers.some((reader, i) => reader.burst !== this.#bursts[i])) return false;
    this.#passed.fill(0);
    return true;
  }
}

/** An allocator of items that are freed through {@linkcode DeferredFree}. */
interface Pool {
  /** No reader holds `item` any more. */
  reclaim(item: number): void;
}

/** Frees items a grace period after they were unpublished. */
export class DeferredFree {
  readonly #readers: readonly Reader[];
  /** Items that were retired between two seals each. */
  readonly #sealed: { readonly pools: Pool[]; readonly items: number[]; readonly grace: Grace }[] =
    [];
  #pools: Pool[] = [];
  #items: number[] = [];

  constructor(readers: readonly Reader[]) {
    this.#readers = readers;
  }

  get size(): number {
    return this.#sealed.reduce((sum, batch) => sum + batch.items.length, this.#items.length);
  }

  /** Returns `item`, which no reader can find from now on, to `pool` when no reader holds it any more. */
  retire(pool: Pool, item: number): void {
    this.#pools.push(pool);
    this.#items.push(item);
  }

  /** Begins a grace period for items retired by stores before an `Atomics.store`, and frees those that had one. */
  reclaim(): void {
    if (this.#items.length > 0) this.#seal();
    let done = 0;
    while (done < this.#sealed.length && this.#sealed[done].grace.over) done++;
    for (const batch of this.#sealed.splice(0, done)) {
      for (let i = 0; i < batch.items.length; i++) batch.pools[i].reclaim(batch.items[i]);
    }
  }

  /** Closes the open batch. While no reader moves it joins the last one, so that batches stay few. */
  #seal(): void {
    const last = this.#sealed.at(-1);
    if (last !== undefined && last.grace.restart()) {
      for (const pool of this.#pools) last.pools.push(pool);
      for (const item of this.#items) last.items.push(item);
    } else {
      const grace = new Grace(this.#readers);
      this.#sealed.push({ pools: this.#pools, items: this.#items, grace });
    }
    this.#pools = [];
    this.#items = [];
  }
}

/**
 * Orders all loads and stores before it ahead of all after it: for plain stores that publish what was
 * just written, and for readers that check whether their copy was overwritten meanwhile. `word` of
 * `words` is any word of shared memory that only the caller stores to. A sequentially consistent store
 * followed by such a load is a full barrier on x86-64 and arm64.
 */
export function fence(words: Uint32Array, word: number): void {
  Atomics.store(words, word, words[word]);
  Atomics.load(words, word);
}

/** Allocates numbers from `first` to below `end`: next hops, tbl8s, records. In the writer's heap. */
export class IdPool {
  readonly #end: number;
  readonly #used: Uint8Array;
  readonly #free: number[] = [];
  count = 0;
  /** Numbers from here on were never allocated, but may be reserved. */
  #next: number;

  constructor(first: number, end: number) {
    this.#next = first;
    this.#end = end;
    this.#used = new Uint8Array(end);
  }

  /** A free number, or one that `deferred` may free by now; -1: there is none. */
  allocate(deferred?: DeferredFree): number {
    const id = this.#free.pop() ?? this.#fresh();
    if (id < 0 && deferred !== undefined) {
      deferred.reclaim();
      return this.allocate();
    }
    if (id < 0) return -1;
    this.#used[id] = 1;
    this.count++;
    return id;
  }

  /** Reserves a number that was never allocated: one that a predecessor still uses. */
  reserve(id: number): void {
    if (this.#used[id] === 0) this.count++;
    this.#used[id] = 1;
  }

  reclaim(id: number): void {
    if (this.#used[id] === 0) return;
    this.#used[id] = 0;
    this.count--;
    this.#free.push(id);
  }

  #fresh(): number {
    while (this.#next < this.#end && this.#used[this.#next] === 1) this.#next++;
    return this.#next < this.#end ? this.#next++ : -1;
  }
}

/** Allocates runs of units, first fit; freed runs merge. Few are free, so a sorted list is enough. */
export class RunPool {
  /** Runs from `start` to below `end`, in order; no two adjoin. */
  readonly #free: { readonly start: number; readonly end: number }[];
  /** Length of each allocated run, by its start. */
  readonly #taken = new Map<number, number>();

  constructor(units: number) {
    this.#free = [{ start: 0, end: units }];
  }

  /** First unit of a run of `length` units; -1: none is free. */
  allocate(length: number): number {
    const run = this.#free.find(({ start, end }) => end - start >= length);
    if (run === undefined) return -1;
    this.reserve(run.start, length);
    return run.start;
  }

  /** Reserves a given run, one that a predecessor still uses. False: it is not free. */
  reserve(start: number, length: number): boolean {
    const end = start + length;
    const i = this.#free.findIndex((run) => run.start <= start && end <= run.end);
    if (i < 0) return false;
    const { start: first, end: last } = this.#free[i];
    const left = [{ start: first, end: start }, { start: end, end: last }];
    this.#free.splice(i, 1, ...left.filter((run) => run.start < run.end));
    this.#taken.set(start, length);
    return true;
  }

  /** Frees the run that begins at `start`. */
  reclaim(start: number): void {
    const length = this.#taken.get(start);
    if (length === undefined) return;
    this.#taken.delete(start);
    const after = this.#free.findIndex((run) => run.start > start);
    const i = after < 0 ? this.#free.length : after;
    const end = start + length;
    const [before, behind] = [this.#free[i - 1], this.#free[i]];
    const joins = [before?.end === start, behind?.start === end];
    this.#free.splice(joins[0] ? i - 1 : i, Number(joins[0]) + Number(joins[1]), {
      start: joins[0] ? before.start : start,
      end: joins[1] ? behind.end : end,
    });
  }
}
