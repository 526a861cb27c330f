/**
 * When may what readers no longer find be used again? Netbase's one answer, for next hops, groups,
 * slots, records and whole tables: read-copy-update by quiescent states, as the kernel and DPDK's
 * rte_rcu_qsbr do it.
 *
 * The rule for the writer: write a record while nobody can see it, publish it by one store, never
 * change it afterwards. To change, publish another in its place and `retire` the old one. The rule
 * for a reader: between two of its quiescent states (one per burst) it may use what it has found;
 * after one it holds nothing.
 *
 * Why that is right. A retired item was made unreachable by a store that came before `seal()` reads
 * the readers' burst counters. A reader that has it found it in a burst that had begun by then, and
 * that burst ends with the next move of its counter. So once the counter differs from the value seen
 * at `seal()`, or the reader says that it sleeps, it holds the item no more, and bursts begun later
 * cannot find it: `NetbaseReader.refresh()` opens each with a sequentially consistent load after the
 * tile's sequentially consistent store of counter or sleep word, and on x86-64 as on arm64 (`stlr`
 * before `ldar`) no later load passes that pair.
 *
 * Inside a burst readers use plain loads. A slot or cell names a record, so the load of the record
 * depends on the load of the slot for its address, and no processor that JavaScript runs on reorders
 * those; the writer publishes by a release store (`Atomics.store`), or by plain stores after
 * `fence()`. V8 neither removes nor merges loads from array buffers and leaves them on their side of
 * an `Atomics` operation. Nobody waits, and nobody retries, for anybody.
 */

/** What netbase's writer must know of each reader; a `TileReader` fits. */
export interface Reader {
  /** Has moved once the reader has let go of all it read before. */
  readonly burst: number;
  /** The reader blocks and holds nothing. */
  readonly asleep: boolean;
}

/**
 * A grace period: over when every reader has moved on from where it was at the beginning. What had been
 * stored before, and ordered before by an `Atomics.store`, is then all that any of them sees.
 */
export class Grace {
  readonly #readers: readonly Reader[];
  readonly #bursts: Uint32Array;
  /** 1: this reader has moved on. */
  readonly #passed: Uint8Array;

  /** Begins now. */
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

  /** Begins again if no reader's counter has moved, which takes no new one; whether it did. */
  restart(): boolean {
    if (this.#readers.some((reader, i) => reader.burst !== this.#bursts[i])) return false;
    this.#passed.fill(0);
    return true;
  }
}

/** Whoever hands out the items that are retired. */
export interface Pool {
  /** `item` is in no reader's hands any more. */
  reclaim(item: number): void;
}

/** What was retired between two seals. */
interface Batch {
  readonly pools: Pool[];
  readonly items: number[];
  readonly grace: Grace;
}

/** Items that were unpublished and wait until every reader has moved on. */
export class Limbo {
  readonly #readers: readonly Reader[];
  readonly #sealed: Batch[] = [];
  #pools: Pool[] = [];
  #items: number[] = [];

  constructor(readers: readonly Reader[]) {
    this.#readers = readers;
  }

  /** How many items wait. */
  get size(): number {
    return this.#sealed.reduce((sum, batch) => sum + batch.items.length, this.#items.length);
  }

  /** Takes `item`, which no reader can find from now on, until none has it any more. */
  retire(pool: Pool, item: number): void {
    this.#pools.push(pool);
    this.#items.push(item);
  }

  /**
   * Begins a grace period for what was retired, and gives back all whose grace period is over. The
   * stores that made the items unreachable must be ordered before this by an `Atomics.store`.
   */
  reclaim(): void {
    if (this.#items.length > 0) this.#seal();
    let done = 0;
    while (done < this.#sealed.length && this.#sealed[done].grace.over) done++;
    for (const batch of this.#sealed.splice(0, done)) {
      for (let i = 0; i < batch.items.length; i++) batch.pools[i].reclaim(batch.items[i]);
    }
  }

  /** Closes the open batch. While readers stand still it joins the last one: one batch, not many. */
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
 * Orders all loads and stores made before it ahead of all made after it: for plain stores that publish
 * what was just written, and for readers that look whether what they copied was overwritten meanwhile.
 * `word` of `words` is any word of shared memory that only the caller stores to. A sequentially
 * consistent store followed by such a load is a full barrier on x86-64 and arm64.
 */
export function fence(words: Uint32Array, word: number): void {
  Atomics.store(words, word, words[word]);
  Atomics.load(words, word);
}
