/**
 * What the master and the appliance say to each other, over the channel that the appliance was started
 * with: one JSON object a message. The master believes none of it unseen.
 */

import { type Channel, MESSAGE_BYTES } from "../../ffi/process.ts";
import type { Outcome } from "./control.ts";

/** What an operator can ask of the master. */
export type Request = (typeof REQUESTS)[number];
export const REQUESTS = ["reload", "upgrade", "drain", "undrain"] as const;

/** What an appliance says. */
export type ApplianceReport =
  /** Its tiles could run. */
  | { readonly type: "ready" }
  /** All of them do. */
  | { readonly type: "running" }
  /** Its net tiles have ended after `leave`: whether each has left to a successor what it held. */
  | { readonly type: "left"; readonly orderly: boolean }
  | { readonly type: "log"; readonly line: string }
  /** A tile ended and is started again in place. */
  | { readonly type: "restarted"; readonly tile: "netlink" | "status" }
  /** Its event loop runs; twice a second. */
  | { readonly type: "beat" }
  /** An operator asks for something, by a number of its own. */
  | { readonly type: "ask"; readonly what: Request; readonly number: number }
  /** It cannot start, or go on, and ends. `status` is an exit status; `app`: because of that app. */
  | {
    readonly type: "failed";
    readonly message: string;
    readonly status: number;
    readonly app?: string;
    /** The rings of its predecessor cannot be taken over: the sockets have to be opened anew. */
    readonly ringsLost?: boolean;
  };

/** What the master says. */
export type ApplianceOrder =
  /** Take over what has not been handed over: the predecessor has ended. */
  | { readonly type: "go" }
  | { readonly type: "leave" }
  | { readonly type: "stop" }
  /** Of each attached interface: whether AF_XDP takes its frames. */
  | { readonly type: "attached"; readonly attached: readonly boolean[] }
  /** What became of what was asked for with this number. */
  | { readonly type: "outcome"; readonly number: number; readonly outcome: Outcome };

/** Sends and receives messages of these types. */
export interface Messages<Sent, Received> {
  /** Whether it went. */
  send(message: Sent): boolean;
  /** The next message; null: none now; undefined: the other end is closed. Throws SyntaxError. */
  receive(): Received | null | undefined;
}

/** Messages by `channel`. What is received is as the other side made it: to be checked. */
export function messagesBy<Sent, Received>(channel: Channel): Messages<Sent, Received> {
  return {
    send(message) {
      const bytes = new TextEncoder().encode(JSON.stringify(message));
      return bytes.length <= MESSAGE_BYTES && channel.send(bytes);
    },
    receive() {
      const bytes = channel.receive();
      return bytes ? JSON.parse(new TextDecoder().decode(bytes)) as Received : bytes;
    },
  };
}
