/**
 * The short way of an app, one function from a request to its answer, made into the fast way.
 */

import { formatAddress } from "../netlink/addresses.ts";
import type { App, AppContext, Datagrams, PlainApp, Request } from "./contract.ts";
import { PromiseError } from "./misuse.ts";

const ENCODER = new TextEncoder();

/** An app that gives each datagram to `answer`, but for those that could come back for ever. */
export function fromPlain(app: PlainApp, context: AppContext): App {
  return {
    ...(app.begin !== undefined && { begin: () => app.begin?.() }),
    ...(app.tick !== undefined && { tick: (out) => app.tick?.(out) }),
    tickMillis: app.tickMillis,
    receive(requests, out) {
      while (requests.next()) {
        if (context.mayLoop(requests)) continue;
        const said = app.answer(toRequest(requests));
        if (said === undefined || said === null) continue;
        const bytes = toBytes(said);
        const at = out.reserve(bytes.length);
        if (at < 0) continue;
        out.bytes.set(bytes, at);
        out.reply(at, bytes.length);
      }
    },
  };
}

/** Throws TypeError where TypeScript's types were not kept. */
function toBytes(said: unknown): Uint8Array {
  if (typeof said === "string") return ENCODER.encode(said);
  if (said instanceof Uint8Array) return said;
  if (said instanceof Promise) throw new PromiseError("answer", said);
  throw new TypeError(`answer() gave ${typeof said}; it is to give bytes, a string or nothing`);
}

function toRequest(requests: Datagrams): Request {
  const { bytes, offset, size } = requests;
  return {
    payload: new Uint8Array(bytes.subarray(offset, offset + size)),
    address: formatAddress(requests.sourceAddress),
    port: requests.sourcePort,
    destinationPort: requests.destinationPort,
    receivedAt: requests.receivedAt / 1e6,
  };
}
