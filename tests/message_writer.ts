// SPDX-License-Identifier: Apache-2.0
import { MessageWriter as Writer, padded } from "../tiles/netlink/rtnetlink.ts";

/** Writes messages as the kernel does: with attributes of any length. */
export class MessageWriter extends Writer {
  /** Writes an attribute with these bytes, and its padding. */
  raw(type: number, bytes: Uint8Array): this {
    this.u16(4 + bytes.length).u16(type);
    for (let i = 0; i < padded(bytes.length); i++) this.u8(bytes[i] ?? 0);
    return this;
  }
}
