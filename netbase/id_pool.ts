/**
 * Hands out small numbers that name places in the region: next hops, FIB groups, records. Those used
 * longest ago are not preferred and none is moved; a number comes back through `rcu.ts`.
 */

/** Free numbers from `first` to below `end`. Only in the writer's heap. */
export class IdPool {
  readonly #end: number;
  readonly #used: Uint8Array;
  readonly #free: number[] = [];
  /** All from here on were never handed out (but may be reserved). */
  #next: number;

  constructor(first: number, end: number) {
    this.#next = first;
    this.#end = end;
    this.#used = new Uint8Array(end);
  }

  /** A number that nobody uses, or -1 when there is none. */
  allocate(): number {
    const id = this.#free.pop() ?? this.#fresh();
    if (id < 0) return -1;
    this.#used[id] = 1;
    return id;
  }

  /** Takes a given number that was never handed out, as a successor does with what it finds in use. */
  reserve(id: number): void {
    this.#used[id] = 1;
  }

  /** Gives `id` back. Fits `Pool` of `rcu.ts`. */
  reclaim(id: number): void {
    if (this.#used[id] === 0) return;
    this.#used[id] = 0;
    this.#free.push(id);
  }

  #fresh(): number {
    while (this.#next < this.#end && this.#used[this.#next] === 1) this.#next++;
    return this.#next < this.#end ? this.#next++ : -1;
  }
}
