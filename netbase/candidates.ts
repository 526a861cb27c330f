/**
 * The candidates of a prefix in one table, in the kernel's order: by descending tos, ascending metric,
 * and among equals as they were put there (appended, prepended, replaced). The first that is usable
 * wins. Lists in one typed array, 16 bytes a route. Only in the writer's heap.
 */

/** Words of a candidate; its words begin at `candidate * CANDIDATE_WORDS`. Candidate 0: none. */
const CANDIDATE_WORDS = 4;
const Candidate = {
  next: 0,
  /** number of its set in the attribute table */
  attributes: 1,
  priority: 2,
  /** tos << 16 | the sync in which it was last named */
  tosSync: 3,
} as const;

/** Candidates to begin with. */
const FIRST_CAPACITY = 1 << 10;

/** What a list is ordered by. Among routes of one prefix and table, those of equal keys compete. */
export interface CandidateKey {
  readonly tos: number;
  readonly priority: number;
}

/** All lists. A list is known by its first candidate, kept by whoever has the list. */
export class CandidatePool {
  /** Candidates in use. */
  count = 0;
  /** All candidates. Replaced when it grows: take it anew after an `insert`. */
  words = new Uint32Array(FIRST_CAPACITY * CANDIDATE_WORDS);
  #next = 1;
  /** Freed candidates, chained. */
  #free = 0;
  #sync = 1;
  /** Candidates that the running sync has named. */
  #named = 0;

  next(candidate: number): number {
    return this.words[candidate * CANDIDATE_WORDS + Candidate.next];
  }

  attributes(candidate: number): number {
    return this.words[candidate * CANDIDATE_WORDS + Candidate.attributes];
  }

  setAttributes(candidate: number, attributes: number): void {
    this.words[candidate * CANDIDATE_WORDS + Candidate.attributes] = attributes;
  }

  priority(candidate: number): number {
    return this.words[candidate * CANDIDATE_WORDS + Candidate.priority];
  }

  tos(candidate: number): number {
    return this.words[candidate * CANDIDATE_WORDS + Candidate.tosSync] >>> 16;
  }

  /** Begins a mark and sweep: from now on only what is allocated or marked counts as named. */
  beginSync(): void {
    this.#sync = (this.#sync + 1) & 0xffff;
    this.#named = 0;
  }

  /** Whether the running sync has named every candidate: there is nothing to sweep. */
  get allNamed(): boolean {
    return this.#named === this.count;
  }

  /** Whether the running sync has named it. */
  isNamed(candidate: number): boolean {
    return (this.words[candidate * CANDIDATE_WORDS + Candidate.tosSync] & 0xffff) === this.#sync;
  }

  /** Notes that the running sync has named it. */
  mark(candidate: number): void {
    if (this.isNamed(candidate)) return;
    const at = candidate * CANDIDATE_WORDS + Candidate.tosSync;
    this.words[at] = (this.words[at] & 0xffff0000) | this.#sync;
    this.#named++;
  }

  /** Where `candidate` stands to `key` in a list: below 0 before, 0 equal, above 0 after. */
  compare(candidate: number, key: CandidateKey): number {
    const tos = this.tos(candidate);
    return tos !== key.tos ? key.tos - tos : this.priority(candidate) - key.priority;
  }

  /** A candidate that is in no list yet, named. */
  allocate(key: CandidateKey, attributes: number): number {
    let candidate = this.#free;
    if (candidate !== 0) {
      this.#free = this.next(candidate);
    } else {
      candidate = this.#next++;
      if (candidate * CANDIDATE_WORDS >= this.words.length) this.#grow();
    }
    const at = candidate * CANDIDATE_WORDS;
    this.words[at + Candidate.attributes] = attributes;
    this.words[at + Candidate.priority] = key.priority;
    this.words[at + Candidate.tosSync] = (key.tos << 16) | this.#sync;
    this.count++;
    this.#named++;
    return candidate;
  }

  /** Puts `candidate` after `before` (0: first) into the list `head`, and returns the list's head. */
  insertAfter(head: number, before: number, candidate: number): number {
    const after = before === 0 ? head : this.next(before);
    this.words[candidate * CANDIDATE_WORDS + Candidate.next] = after;
    if (before === 0) return candidate;
    this.words[before * CANDIDATE_WORDS + Candidate.next] = candidate;
    return head;
  }

  /** Takes `candidate` out of the list `head` without freeing it, and returns the list's head. */
  unlink(head: number, candidate: number): number {
    const after = this.next(candidate);
    if (head === candidate) return after;
    let before = head;
    while (this.next(before) !== candidate) before = this.next(before);
    this.words[before * CANDIDATE_WORDS + Candidate.next] = after;
    return head;
  }

  /** Frees a candidate that is in no list any more. */
  release(candidate: number): void {
    if (this.isNamed(candidate)) this.#named--;
    this.words[candidate * CANDIDATE_WORDS + Candidate.next] = this.#free;
    this.#free = candidate;
    this.count--;
  }

  #grow(): void {
    const words = new Uint32Array(this.words.length * 2);
    words.set(this.words);
    this.words = words;
  }
}
