// SPDX-License-Identifier: Apache-2.0
/**
 * The control socket: a Unix stream socket with one JSON object a line each way. Answers come in the order
 * of the requests. docs/operating/observe.md describes it for users.
 */

import { parseAddress } from "../../netbase/route.ts";
import {
  decisionEntry,
  type Entry,
  interfaceEntries,
  interfaceNames,
  jsonLine,
  neighborEntries,
  type RoutesPage,
  SYNC_STATES,
} from "../netlink/entries.ts";
import { Ask, type Question, type Told } from "../runtime/control.ts";
import { countersOf, STATUS } from "../runtime/counters.ts";
import { appNames } from "./capture.ts";
import { type Connection, type Listener, serveConnections } from "./connections.ts";
import { metricsText } from "./metrics.ts";
import type { StatusView } from "./tile.ts";

const MOST_CONNECTIONS = 64;
const MOST_REQUEST = 1 << 16;
/** Once this many characters of answers are ready, they are written before the next request is answered. */
const MOST_TOGETHER = 1 << 16;
/** How long a request may take from its first byte to its last. */
const REQUEST_MILLIS = 30_000;
/** How long a client may be silent, or read nothing of an answer. A pager can wait for minutes. */
const IDLE_MILLIS = 300_000;

/** `change` rejects with this if a successor has the answer. The connection ends without one. */
export const REPLACED = new Error("another status tile answers");

/** Lines of JSON, at once or in pieces. */
export type Answer = string | AsyncIterable<string>;
type Request = Readonly<Record<string, unknown>>;

/** How requests on the control socket are answered. Tests set other limits. */
interface Conversation {
  answer(line: string): Answer;
  readonly requestMillis?: number;
  readonly idleMillis?: number;
}

/** Serves connections until the listener is closed. */
export function serveControl(
  listener: Listener,
  { counters, ...conversation }: Conversation & { readonly counters: Float64Array },
): Promise<void> {
  return serveConnections(listener, {
    most: MOST_CONNECTIONS,
    counters,
    gauge: STATUS.index.control_connections,
    converse: (connection) => converse(connection, conversation),
  });
}

async function converse(
  connection: Connection,
  { answer, requestMillis = REQUEST_MILLIS, idleMillis = IDLE_MILLIS }: Conversation,
): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  // The client gets the same time for each piece of an answer.
  const write = async (text: string) => {
    if (text === "") return;
    connection.allow(idleMillis);
    await connection.write(text);
  };
  connection.allow(idleMillis);
  for (;;) {
    const chunk = await connection.read();
    if (chunk === null) return;
    const hadBegun = rest !== "";
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    if (rest.length > MOST_REQUEST) return;
    // One read can contain thousands of requests. Their answers are written together if they are short.
    let ready = "";
    for (const line of lines) {
      const answered = answer(line);
      if (typeof answered === "string") {
        ready += answered;
        if (ready.length < MOST_TOGETHER) continue;
      }
      await write(ready);
      ready = "";
      if (typeof answered === "string") continue;
      for await (const piece of answered) await write(piece);
    }
    await write(ready);
    if (rest === "") connection.allow(idleMillis);
    else if (lines.length > 0 || !hadBegun) connection.allow(requestMillis);
  }
}

const VERBS: Readonly<Record<string, (view: StatusView, request: Request) => Answer>> = {
  status,
  counters: ({ tiles }) => jsonLine(countersOf(tiles)),
  metrics: (view) => jsonLine({ text: metricsText(view) }),
  show,
  route,
  audit,
  capture,
  reload: (view, request) => change(view, Ask.reload, request),
  upgrade: (view, request) => change(view, Ask.upgrade, request),
  drain: (view, request) => change(view, Ask.drain, request),
  undrain: (view, request) => change(view, Ask.undrain, request),
};

/** Answers one line. An invalid request is answered with an error. */
export function answerLine(view: StatusView, line: string): Answer {
  const { counters } = view;
  const failed = (error: unknown) => {
    counters[STATUS.index.control_errors]++;
    return jsonLine({ error: error instanceof Error ? error.message : String(error) });
  };
  counters[STATUS.index.control_requests]++;
  try {
    const request = parse(line);
    const { do: verb } = request;
    if (typeof verb !== "string" || !Object.hasOwn(VERBS, verb)) {
      throw new Error(`"do" takes ${Object.keys(VERBS).join(", ")}`);
    }
    const answer = VERBS[verb](view, request);
    if (typeof answer === "string") return answer;
    return (async function* () {
      try {
        yield* answer;
      } catch (error) {
        if (error === REPLACED) throw error;
        yield failed(error);
      }
    })();
  } catch (error) {
    return failed(error);
  }
}

function status(
  { netbase, tiles, interfaces, control, listen, health }: StatusView,
): string {
  return jsonLine({
    health: health.read(),
    sync: SYNC_STATES[netbase.syncState],
    since: new Date(netbase.syncTimeMillis).toISOString(),
    interfaces,
    xdp: interfaces.filter((_, i) => control.xdp(i)),
    listen,
    tiles: tiles.map(({ kind, name }) => ({ kind, name })),
  });
}

function show({ netbase, read, question }: StatusView, { what }: Request): Answer {
  switch (what) {
    case "interfaces":
      return list(read(() => interfaceEntries(netbase)));
    case "neighbors":
      return list(read(() => neighborEntries(netbase)));
    case "routes":
      return routes(question);
  }
  throw new Error('"what" takes interfaces, routes, neighbors');
}

/** One entry a line, and their number. */
function list(entries: readonly Entry[]): string {
  return entries.map(jsonLine).join("") + jsonLine({ end: entries.length });
}

/** A full table has a million routes, so the netlink tile sends them in pages. */
async function* routes(question: Question): AsyncGenerator<string> {
  const ask = (from: readonly number[]) => question<RoutesPage>(Ask.routes, ...from);
  let count = 0;
  for (let next: Promise<Told<RoutesPage>> | null = ask([0, 0, 0]); next !== null;) {
    const { head, lines }: Told<RoutesPage> = await next;
    // The next page is made while the client reads this one.
    next = head.next === null ? null : ask(head.next);
    yield lines;
    count += head.count;
  }
  yield jsonLine({ end: count });
}

function route({ netbase, read }: StatusView, { destination, source }: Request): string {
  const [to, from] = [address(destination), source === undefined ? 0 : address(source)];
  return jsonLine(read(() => decisionEntry(netbase, to, from)));
}

async function* audit({ question }: StatusView): AsyncGenerator<string> {
  yield jsonLine((await question<Entry>(Ask.audit)).head);
}

function capture(
  { captureStream, listen, netbase, read }: StatusView,
  { drops = false, app }: Request,
): Answer {
  if (typeof drops !== "boolean") throw new Error('"drops" takes true or false');
  const apps = appNames(listen);
  if (app !== undefined && (typeof app !== "string" || !apps.includes(app))) {
    throw new Error(`"app" takes ${apps.join(", ")}`);
  }
  const names = () => read(() => interfaceNames(netbase.interfaces));
  return captureStream({ dropsOnly: drops, app }, names);
}

/** A reload replaces this tile. For the same number its successor returns the outcome of the same change. */
function change(
  view: StatusView,
  kind: number,
  { number = 1 + Math.floor(Math.random() * 0xffffffff) }: Request,
): Answer {
  if (!Number.isInteger(number) || Number(number) < 1 || Number(number) > 0xffffffff) {
    throw new Error('"number" takes a whole number from 1 to 4294967295');
  }
  return (async function* () {
    yield jsonLine({ ...await view.change(kind, Number(number)) });
  })();
}

function parse(text: string): Request {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (typeof value === "object" && value !== null) return value as Request;
  throw new Error("a request is a JSON object on one line");
}

function address(value: unknown): number {
  const parsed = typeof value === "string" ? parseAddress(value) : -1;
  if (parsed >= 0) return parsed;
  throw new Error(`no IPv4 address: ${JSON.stringify(value)}`);
}
