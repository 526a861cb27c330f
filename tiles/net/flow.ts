/**
 * The flow hash: by it a flow keeps to one member of an ECMP route and to one of several apps.
 */

/**
 * 32 well-mixed bits of a flow's addresses and ports, as a signed word (the finaliser of MurmurHash3
 * over their combination). The same flow always gets the same.
 */
export function flowHash(a: number, b: number, ports: number): number {
  let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca77) ^ Math.imul(ports, 0xc2b2ae3d);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
