// SPDX-License-Identifier: Apache-2.0
/** How an interface is attached, with no kernel to say no. */

import { deepEqual, equal, throws } from "node:assert/strict";
import { EBUSY, EEXIST, EOPNOTSUPP, SystemError } from "../../../ffi/library.ts";
import { heapView } from "../../../ffi/region.ts";
import type { XskSetup } from "../../../ffi/xsk.ts";
import {
  attachAll,
  Attachment,
  type Binding,
  OccupiedError,
  type Opened,
} from "../../../master/attachment.ts";

/** A setup that does whatever it is asked, and the modes in which it was asked to attach. */
function willing(): { setup: XskSetup; modes: string[] } {
  const modes: string[] = [];
  const setup = {
    load: () => ({ program: 3, filter: 4, sockets: 5, redirected: 6 }),
    attached: () => null,
    attach: (_program: unknown, _ifindex: number, mode: string) => {
      modes.push(mode);
      return 7;
    },
    prepare: () => 0,
    bind: () => 0,
    detach: () => {},
    close: () => {},
  } as unknown as XskSetup;
  return { setup, modes };
}

function attachment(setup: XskSetup, notNative: string): Attachment {
  const map = (_fd: number, bytes: number) => heapView(bytes);
  return new Attachment(setup, { name: "bond0", ifindex: 2, queues: 1, map, notNative });
}

/** Opens an interface with one queue. */
function open(attachment: Attachment, binding: Binding): Opened {
  attachment.prepare(QUEUES);
  return attachment.open(binding);
}

const QUEUES = [{ queue: 0, umem: heapView(4096) }];

Deno.test("an interface that is not to be tried natively is attached in generic mode, with the reason", () => {
  const { setup, modes } = willing();
  const opened = open(attachment(setup, "it lies"), "copy");
  deepEqual({ ...opened, sockets: [] }, { attach: "generic", reason: "it lies", sockets: [] });
  deepEqual(modes, ["generic"]);
  throws(() => open(attachment(setup, "it lies"), "zero-copy"), /^Error: it lies$/);
});

Deno.test("any other is attached natively", () => {
  const { setup, modes } = willing();
  deepEqual(open(attachment(setup, ""), "copy").attach, "native");
  deepEqual(modes, ["native"]);
});

/** A setup with a dispatcher on the interface, and what was asked of it, in order. */
function dispatching(answers: Partial<XskSetup> = {}): { setup: XskSetup; asked: string[] } {
  const asked: string[] = [];
  const { setup } = willing();
  const note = (name: string, result: number) => (...args: unknown[]) => {
    asked.push([name, ...args.filter((each) => each === "native" || each === "generic")].join(" "));
    return result;
  };
  Object.assign(setup, {
    attached: () => ({ id: 41, name: "xdp_dispatcher" }),
    attach: note("attach", 7),
    bind: note("bind", 0),
    close: note("close", 0),
    join: note("join", 0),
    leave: note("leave", 0),
    ...answers,
  });
  return { setup, asked };
}

function joining(setup: XskSetup): Attachment {
  const map = (_fd: number, bytes: number) => heapView(bytes);
  const how = { name: "eth0", ifindex: 2, queues: 1, map, dispatcher: true };
  return new Attachment(setup, how);
}

Deno.test("a dispatcher is joined when the sockets are open, and left before they are closed", () => {
  const { setup, asked } = dispatching();
  const joined = joining(setup);
  equal(open(joined, "copy").attach, "native");
  deepEqual(asked, ["bind", "join native"]);
  joined.close();
  joined.close();
  deepEqual(asked, ["bind", "join native", "leave", "close"]);
});

Deno.test("a dispatcher that is attached in generic mode is joined in that, with the reason", () => {
  const asked: string[] = [];
  const join: XskSetup["join"] = (_program, _ifindex, mode) => {
    asked.push(mode);
    return mode === "native" ? -EEXIST : 0;
  };
  const opened = open(joining(dispatching({ join }).setup), "copy");
  equal(opened.attach, "generic");
  equal(opened.reason, "libxdp's dispatcher is attached in the other mode");
  deepEqual(asked, ["native", "generic"]);
});

Deno.test("where another has the queues' sockets no program of a dispatcher is touched", () => {
  const { setup, asked } = dispatching({ bind: () => -EBUSY });
  const isBusy = (error: unknown) => error instanceof SystemError && error.errno === EBUSY;
  throws(() => open(joining(setup), "copy"), isBusy);
  deepEqual(asked, ["close"]);
});

Deno.test("a dispatcher is in the way where it is not to be joined, and another program always", () => {
  const other = () => ({ id: 41, name: "other_program" });
  throws(() => attachment(dispatching().setup, ""), OccupiedError);
  throws(() => joining(dispatching({ attached: other }).setup), OccupiedError);
});

/** An attachment that takes zero-copy or does not, and in which modes it was opened. */
function choosing(name: string, { zeroCopy }: { zeroCopy: boolean }) {
  const modes: string[] = [];
  const bind: XskSetup["bind"] = (_fd, { mode }) => {
    modes.push(mode);
    return mode === "copy" || zeroCopy ? 0 : -EOPNOTSUPP;
  };
  const map = (_fd: number, bytes: number) => heapView(bytes);
  const setup = { ...willing().setup, bind };
  const made = new Attachment(setup, { name, ifindex: 2, queues: 1, map });
  made.prepare(QUEUES);
  return { made, modes };
}

Deno.test("interfaces that all refuse zero-copy are opened in copy mode, with the reason", () => {
  const all = ["eth0", "eth1"].map((name) => choosing(name, { zeroCopy: false }));
  const copyOnly = new Set<string>();
  const reason = "no zero-copy: queue 0: EOPNOTSUPP, operation not supported";
  const copied = { mode: "xdp native copy", reason };
  deepEqual(attachAll(all.map(({ made }) => made), copyOnly), [copied, copied]);
  deepEqual(all.map(({ modes }) => modes), [["zero-copy", "copy"], ["copy"]]);
});

Deno.test("sockets that only some interfaces have bound are not bound again, as a net tile has them", () => {
  const [eth0, eth1] = [true, false].map((zeroCopy, i) => choosing(`eth${i}`, { zeroCopy }));
  const copyOnly = new Set<string>();
  equal(attachAll([eth0.made, eth1.made], copyOnly), null);
  deepEqual([eth0.modes, eth1.modes], [["zero-copy"], ["zero-copy"]]);
  deepEqual([...copyOnly], ["eth1"]);
  // The next ones are opened in copy mode at once.
  const next = choosing("eth1", { zeroCopy: false });
  const reason = "no zero-copy: a queue of eth1 refused it";
  deepEqual(attachAll([next.made], copyOnly), [{ mode: "xdp native copy", reason }]);
  deepEqual(next.modes, ["copy"]);
});
