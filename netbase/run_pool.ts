/**
 * Hands out runs of consecutive units from a fixed space: the paths of ECMP groups and the addresses
 * of interfaces, both of which readers index from a first unit on. First fit, neighbours merged when
 * a run comes back; there are few runs, so a sorted list of the free ones is all it takes.
 */

/** Free units from `start` to below `end`. */
interface Run {
  readonly start: number;
  readonly end: number;
}

/** Free runs of a space of units. Only in the writer's heap. */
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
