/** How an interface is attached, with no kernel to say no. */

import { deepEqual, throws } from "node:assert/strict";
import { heapView } from "../../ffi/view.ts";
import type { XskSetup } from "../../ffi/xsk.ts";
import { Attachment } from "../../tiles/runtime/attachment.ts";

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
    open: () => 0,
    detach: () => {},
    close: () => {},
  } as unknown as XskSetup;
  return { setup, modes };
}

function attachment(setup: XskSetup, notNative: string): Attachment {
  const map = (_fd: number, bytes: number) => heapView(bytes);
  return new Attachment(setup, { name: "bond0", ifindex: 2, queues: 1, map, notNative });
}

const SHARES = [{ queue: 0, netTile: 0, umem: heapView(4096) }];

Deno.test("an interface that is not to be tried natively is attached in generic mode, with the reason", () => {
  const { setup, modes } = willing();
  const opened = attachment(setup, "it lies").open(SHARES, "copy");
  deepEqual({ ...opened, sockets: [] }, { attach: "generic", reason: "it lies", sockets: [] });
  deepEqual(modes, ["generic"]);
  throws(() => attachment(setup, "it lies").open(SHARES, "zero-copy"), /^Error: it lies$/);
});

Deno.test("any other is attached natively", () => {
  const { setup, modes } = willing();
  deepEqual(attachment(setup, "").open(SHARES, "copy").attach, "native");
  deepEqual(modes, ["native"]);
});
