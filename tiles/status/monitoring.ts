/**
 * Monitors: hands on what the netlink tile says has changed to whoever asks for it over the control
 * socket. While nobody does, that tile is told to note nothing.
 */

import { setTimeout as delay } from "node:timers/promises";
import { lineStart, type Topic, TOPICS } from "../netlink/changes.ts";
import { Ask } from "../runtime/control.ts";
import type { Question } from "./question.ts";

/** Pause between two looks at what there is. */
const POLL_MILLIS = 20;
/** How often something is said, if only how many were lost: so that one who has left is noticed. */
const BEAT_MILLIS = 1000;
/** Characters that are kept for one who is slow to take them; with more, lines are lost to it alone. */
const MOST_WAITING = 4 << 20;

/** One who monitors. */
interface Listener {
  readonly topics: readonly Topic[];
  /** Whether the netlink tile notes what this one wants. */
  begun: boolean;
  lines: string[];
  /** Characters of them. */
  waiting: number;
  lost: number;
  /** The netlink tile was started again meanwhile. */
  missed: boolean;
}

/** What the netlink tile says besides what has changed. */
interface Look {
  readonly began: boolean;
  readonly lost: number;
  readonly more: boolean;
}

/** All monitors that are open. */
export class Monitoring {
  readonly #question: Question;
  readonly #open = new Set<Listener>();
  /** Settles with the next look at what there is; null: there is none under way. */
  #looking: Promise<void> | null = null;
  /** There is more than the last look could take. */
  #more = false;

  /** None is open, whatever a predecessor left. */
  constructor(question: Question) {
    this.#question = question;
    this.#ask([]).catch(() => {});
  }

  /** What changes from now on, for as long as it is asked for. */
  async *stream(topics: readonly Topic[]): AsyncGenerator<string> {
    const state = { begun: false, lines: [], waiting: 0, lost: 0, missed: false };
    const own: Listener = { topics, ...state };
    this.#open.add(own);
    try {
      while (!own.begun) await this.#look();
      yield `{"monitoring":${JSON.stringify(topics)}}\n`;
      for (let [said, told] = [performance.now(), 0];;) {
        await this.#look();
        let text = own.lines.join("");
        [own.lines, own.waiting] = [[], 0];
        if (own.lost > told || performance.now() - said > BEAT_MILLIS) {
          [said, told] = [performance.now(), own.lost];
          text += `{"lost":${own.lost}}\n`;
        }
        if (text !== "") yield text;
        if (own.missed) throw new Error("the netlink tile was started again; monitor anew");
      }
    } finally {
      this.#open.delete(own);
      if (this.#open.size === 0) this.#ask([]).catch(() => {});
    }
  }

  /** One look for all who wait for one. */
  #look(): Promise<void> {
    return this.#looking ??= this.#lookOnce().finally(() => this.#looking = null);
  }

  async #lookOnce(): Promise<void> {
    if (!this.#more) await delay(POLL_MILLIS);
    const listeners = [...this.#open];
    const { head: { began, lost, more }, lines } = await this.#ask(listeners);
    this.#more = more;
    const all = lines.split("\n").slice(0, -1);
    for (const listener of listeners) {
      listener.missed ||= began && listener.begun;
      if (listener.begun) hand(listener, all, lost);
      listener.begun = true;
    }
  }

  #ask(listeners: readonly Listener[]) {
    const isWanted = (topic: Topic) => listeners.some(({ topics }) => topics.includes(topic));
    const topics = TOPICS.reduce((set, topic, n) => isWanted(topic) ? set | (1 << n) : set, 0);
    return this.#question.ask<Look>(Ask.changes, topics);
  }
}

function hand(listener: Listener, lines: readonly string[], lost: number): void {
  listener.lost += lost;
  for (const line of lines) {
    if (!listener.topics.some((topic) => line.startsWith(lineStart(topic)))) continue;
    if (listener.waiting >= MOST_WAITING) {
      listener.lost++;
      continue;
    }
    listener.waiting += line.length;
    listener.lines.push(`${line}\n`);
  }
}
