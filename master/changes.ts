/**
 * Reloads and upgrades that operators ask for, as the master does them: one after the other, and each once.
 * Who asks may lose the connection while the status tile that it asked is replaced; it asks the next one
 * for the change with the same number.
 */

import type { Outcome } from "../tiles/runtime/control.ts";
import { Exit, messageOf, UserError } from "../cli/errors.ts";

/** Changes that are remembered. One that is under way is never forgotten. */
const MOST = 16;

/** All changes, by their numbers. */
export class Changes {
  readonly #outcomes = new Map<number, Promise<Outcome>>();
  #last: Promise<unknown> = Promise.resolve();
  #underWay = 0;

  /**
   * The outcome of change `number`, which `work` does when those before it are over, unless it has begun.
   * `work` returns the sentence for the operator; a UserError is an outcome, too.
   */
  ask(number: number, work: () => Promise<string>): Promise<Outcome> {
    const known = this.#outcomes.get(number);
    if (known !== undefined) return known;
    if (this.#underWay === MOST) {
      const line = `${MOST} reloads and upgrades are waiting; ask again later`;
      return Promise.resolve({ ok: false, status: Exit.usage, line });
    }
    return this.add(number, this.#last.then(work));
  }

  /** Takes a change that has begun, as the program did before an upgrade. */
  add(number: number, done: Promise<string>): Promise<Outcome> {
    this.#underWay++;
    const outcome = outcomeOf(done).finally(() => this.#underWay--);
    this.#last = outcome;
    this.#outcomes.set(number, outcome);
    if (this.#outcomes.size > MOST) this.#outcomes.delete(this.#outcomes.keys().next().value!);
    return outcome;
  }
}

async function outcomeOf(done: Promise<string>): Promise<Outcome> {
  try {
    return { ok: true, line: await done };
  } catch (error) {
    // Whatever was wrong, nothing was changed.
    const status = error instanceof UserError ? Exit.usage : Exit.failure;
    return { ok: false, status, line: messageOf(error) };
  }
}
