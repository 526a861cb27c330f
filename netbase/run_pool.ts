/**
 * Hands out runs of consecutive units from a fixed space: the paths of ECMP groups and the addresses
 * of interfaces, both of which readers index from a first unit on. First fit, neighbours merged when
 * a run comes back; there are few runs, so a sorted list of the free ones is all it takes.
 *
 * @module
 */

/** Free runs of a space of units. Only in the writer's heap. */
export class RunPool {
  /** Free runs in order: where each begins, and how long it is. */
  readonly #starts: number[] = [];
  readonly #lengths: number[] = [];
  /** Length of each run handed out, by its start. */
  readonly #taken = new Map<number, number>();

  constructor(units: number) {
    this.#starts.push(0);
    this.#lengths.push(units);
  }

  /** First unit of a run of `length` units, or -1 when there is none so long. */
  allocate(length: number): number {
    for (let i = 0; i < this.#starts.length; i++) {
      if (this.#lengths[i] >= length) return this.#take(i, this.#starts[i], length);
    }
    return -1;
  }

  /** Takes a given run, as a successor does with what it finds in use. False: not free. */
  reserve(start: number, length: number): boolean {
    for (let i = 0; i < this.#starts.length; i++) {
      const from = this.#starts[i];
      if (from > start || start + length > from + this.#lengths[i]) continue;
      this.#take(i, start, length);
      return true;
    }
    return false;
  }

  /** Gives back the run that begins at `start`. Fits `Pool` of `rcu.ts`. */
  reclaim(start: number): void {
    const length = this.#taken.get(start);
    if (length === undefined) return;
    this.#taken.delete(start);
    let i = 0;
    while (i < this.#starts.length && this.#starts[i] < start) i++;
    this.#starts.splice(i, 0, start);
    this.#lengths.splice(i, 0, length);
    this.#merge(i);
    if (i > 0) this.#merge(i - 1);
  }

  /** Cuts `length` units at `start` out of free run `i`. */
  #take(i: number, start: number, length: number): number {
    const from = this.#starts[i];
    const end = from + this.#lengths[i];
    const starts: number[] = [];
    const lengths: number[] = [];
    if (start > from) {
      starts.push(from);
      lengths.push(start - from);
    }
    if (end > start + length) {
      starts.push(start + length);
      lengths.push(end - start - length);
    }
    this.#starts.splice(i, 1, ...starts);
    this.#lengths.splice(i, 1, ...lengths);
    this.#taken.set(start, length);
    return start;
  }

  /** Joins free run `i` with the next one where they touch. */
  #merge(i: number): void {
    if (this.#starts[i] + this.#lengths[i] !== this.#starts[i + 1]) return;
    this.#lengths[i] += this.#lengths[i + 1];
    this.#starts.splice(i + 1, 1);
    this.#lengths.splice(i + 1, 1);
  }
}
