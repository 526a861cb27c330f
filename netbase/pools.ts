/**
 * Who hands out places in the region, only in the writer's heap: small numbers (next hops, FIB groups,
 * records), and runs of consecutive units (the paths of ECMP groups, the addresses of interfaces), both
 * of which come back through `rcu.ts`. Those used longest ago are not preferred and none is moved.
 */

/** Free numbers from `first` to below `end`. */
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

/** Free units from `start` to below `end`. */
interface Run {
  readonly start: number;
  readonly end: number;
}

/**
 * Free runs of a space of units. First fit, neighbours merged when a run comes back; there are few runs,
 * so a sorted list of the free ones is all it takes.
 */
export class RunPool {
  /** In order, and none next to another. */
  readonly #free: Run[];
  /** Length of each run handed out, by its start. */
  readonly #taken = new Map<number, number>();

  constructor(units: number) {
    this.#free = [{ start: 0, end: units }];
  }

  /** First unit of a run of `length` units, or -1 when there is none so long. */
  allocate(length: number): number {
    const run = this.#free.find(({ start, end }) => end - start >= length);
    if (run === undefined) return -1;
    this.reserve(run.start, length);
    return run.start;
  }

  /** Takes a given run, as a successor does with what it finds in use. False: not free. */
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

  /** Gives back the run that begins at `start`. Fits `Pool` of `rcu.ts`. */
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
