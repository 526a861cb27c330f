// SPDX-License-Identifier: Apache-2.0
/** A STUN server in the fast form: reads requests and writes answers in place. */

import type { App, AppContext } from "../../tiles/app/contract.ts";

const COOKIE = [0x21, 0x12, 0xa4, 0x42];

export default function create({ refuses }: AppContext): App {
  return {
    receive(requests, out) {
      while (requests.next()) {
        const { bytes, offset, size } = requests;
        if (size < 20 || bytes[offset] !== 0 || bytes[offset + 1] !== 1) continue;
        if (COOKIE.some((byte, i) => bytes[offset + 4 + i] !== byte)) continue;
        if (refuses(requests)) continue;
        const at = out.reserve(32);
        if (at < 0) continue;
        const answer = out.bytes;
        answer[at] = answer[at + 1] = 1;
        answer[at + 2] = 0;
        answer[at + 3] = 12;
        for (let i = 4; i < 20; i++) answer[at + i] = bytes[offset + i];
        answer[at + 20] = answer[at + 22] = answer[at + 24] = 0;
        answer[at + 21] = 0x20;
        answer[at + 23] = 8;
        answer[at + 25] = 1;
        const port = requests.sourcePort;
        answer[at + 26] = (port >>> 8) ^ COOKIE[0];
        answer[at + 27] = port ^ COOKIE[1];
        const address = requests.sourceAddress.words[3];
        for (let i = 0; i < 4; i++) answer[at + 28 + i] = (address >>> (24 - 8 * i)) ^ COOKIE[i];
        out.reply(at, 32);
      }
    },
  };
}
