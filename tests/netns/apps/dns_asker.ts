// SPDX-License-Identifier: Apache-2.0
/**
 * Asks a name server from several ports for the addresses of `n0` to `n249` below example.org, which are
 * `addressOf` of their number, at a steady rate, and says `asking`, then as JSON what came of it:
 *
 *     dns_asker.ts ADDRESS PER_SECOND SECONDS
 */

import { createSocket, type Socket } from "node:dgram";
import { setTimeout as delay } from "node:timers/promises";
import packet from "dns-packet";

/** How many names there are. */
export const NAMES = 250;
const SOCKETS = 10;
/** How long answers are waited for when the last question has been asked. */
const [LINGER_MILLIS, PAUSE_MILLIS] = [5000, 10];
/** So many of the wrong answers are told. */
const MOST_TOLD = 5;

/** What came of the questions. */
export interface Asked {
  readonly questions: number;
  readonly answered: number;
  /** Answers that are not the one of a question of their port: by number, question and record. */
  readonly wrong: number;
  readonly examples: readonly string[];
}

/** The address of the name with this number. */
export function addressOf(number: number): string {
  return `192.0.2.${number}`;
}

class Port {
  readonly #socket: Socket = createSocket("udp4");
  /** The numbers of the names that are asked for, by the number of the query. */
  readonly #asked = new Map<number, number>();
  #id = Math.floor(Math.random() * 0x10000);
  questions = 0;
  answered = 0;
  readonly wrong: string[] = [];

  constructor() {
    this.#socket.on("message", (answer) => this.#take(answer));
  }

  ask(target: string, number: number): void {
    this.questions++;
    this.#id = (this.#id + 1) & 0xffff;
    this.#asked.set(this.#id, number);
    const questions = [{ name: nameOf(number), type: "A" }];
    this.#socket.send(packet.encode({ type: "query", id: this.#id, questions }), 53, target);
  }

  close(): void {
    this.#socket.close();
  }

  #take(answer: Uint8Array): void {
    const { id, type, rcode, questions, answers } = packet.decode(answer);
    const number = this.#asked.get(id);
    // A second answer is none of a question.
    this.#asked.delete(id);
    const said = JSON.stringify([type, rcode, pick(questions), pick(answers)]);
    const asked = number === undefined ? [] : [{ name: nameOf(number), type: "A" }];
    const records = asked.map((of) => ({ ...of, data: addressOf(number!) }));
    if (said === JSON.stringify(["response", "NOERROR", asked, records])) this.answered++;
    else this.wrong.push(`to ${nameOf(number ?? NaN)}: ${said}`);
  }
}

function nameOf(number: number): string {
  return `n${number}.example.org`;
}

interface Described {
  readonly name: string;
  readonly type: string;
  readonly data?: string;
}

function pick(section: readonly Described[]): Described[] {
  return section.map(({ name, type, data }) => ({ name, type, data }));
}

async function run(target: string, perSecond: number, seconds: number): Promise<Asked> {
  const ports = Array.from({ length: SOCKETS }, () => new Port());
  const sum = (of: (port: Port) => number) => ports.reduce((total, port) => total + of(port), 0);
  console.log("asking");
  const start = performance.now();
  const total = perSecond * seconds;
  for (let asked = 0; asked < total;) {
    const due = Math.min(total, (performance.now() - start) / 1000 * perSecond);
    for (; asked < due; asked++) ports[asked % SOCKETS].ask(target, asked * 7 % NAMES);
    await delay(PAUSE_MILLIS);
  }
  const wrong = () => ports.flatMap((port) => port.wrong);
  const end = performance.now() + LINGER_MILLIS;
  while (performance.now() < end && sum(({ answered }) => answered) + wrong().length < total) {
    await delay(PAUSE_MILLIS);
  }
  for (const port of ports) port.close();
  return {
    questions: sum(({ questions }) => questions),
    answered: sum(({ answered }) => answered),
    wrong: wrong().length,
    examples: wrong().slice(0, MOST_TOLD),
  };
}

if (import.meta.main) {
  const [target, perSecond, seconds] = Deno.args;
  console.log(JSON.stringify(await run(target, Number(perSecond), Number(seconds))));
}
