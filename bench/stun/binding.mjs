// SPDX-License-Identifier: Apache-2.0
/** STUN's binding request and its answer (RFC 8489), in the way in which an author of a small server writes them. */

const COOKIE = 0x2112a442;

/**
 * The answer to a request from `address`, an IPv4 address as a word, and `port`; null if it is no request.
 *
 * @param {Uint8Array} request
 * @param {number} address
 * @param {number} port
 */
export function answerTo(request, address, port) {
  const asked = new DataView(request.buffer, request.byteOffset, request.length);
  if (asked.byteLength < 20 || asked.getUint16(0) !== 1 || asked.getUint32(4) !== COOKIE) {
    return null;
  }
  const answer = new Uint8Array(32);
  answer.set(request.subarray(0, 20));
  const view = new DataView(answer.buffer);
  view.setUint16(0, 0x101);
  view.setUint16(2, 12);
  view.setUint32(20, 0x200008);
  view.setUint16(24, 1);
  view.setUint16(26, port ^ (COOKIE >>> 16));
  view.setUint32(28, address ^ COOKIE);
  return answer;
}

/**
 * An IPv4 address as a word.
 *
 * @param {string} text
 */
export function wordOf(text) {
  return text.split(".").reduce((word, byte) => word * 256 + Number(byte), 0);
}
