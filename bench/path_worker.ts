// SPDX-License-Identifier: Apache-2.0
/**
 * One contestant of the path benchmark, in its own worker like a net tile of the appliance, so that V8
 * sees nothing of the other cases.
 */

import { Path, type PathSetup } from "./path_tiles.ts";

/** This worker's scope. */
const worker = self as unknown as {
  onmessage: ((event: MessageEvent<PathSetup | number>) => void) | null;
  postMessage(message: number): void;
};
let path: Path | null = null;

/** The first message makes the path, and is answered with 0. Further ones are numbers of packets. */
worker.onmessage = async ({ data }) => {
  if (typeof data === "number") worker.postMessage(path!.run(data));
  else {
    path = await Path.make(data);
    worker.postMessage(0);
  }
};
