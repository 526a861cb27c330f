/**
 * Ranges of UDP ports: how served ports are written, counted and handed from one process to the next.
 */

/** Most ports that one appliance serves. Behind each stands a kernel socket, a descriptor of ours. */
export const MOST_PORTS_SERVED = 4096;

/** The first and the last port of a range; the same twice for a single port. */
export type PortRange = readonly [first: number, last: number];

/** Reads `7` or `5300-5363`, of ports from `least` on; null for anything else. */
export function parseRange(text: string, least: number): PortRange | null {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  const range = [Number(first), Number(last)] as const;
  return least <= range[0] && range[0] <= range[1] && range[1] <= 65_535 ? range : null;
}

/** How many ports there are in all of the ranges together. */
export function countPorts(ranges: readonly PortRange[]): number {
  return ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0);
}

/** Every port of the ranges, in their order. */
export function portsOf(ranges: readonly PortRange[]): number[] {
  return ranges.flatMap(([first, last]) =>
    Array.from({ length: last - first + 1 }, (_, i) => first + i)
  );
}

/** The same ports in fewer ranges: one that begins where the one before it ends is added to that. */
export function joinRanges(ranges: readonly PortRange[]): PortRange[] {
  const joined: PortRange[] = [];
  for (const [first, last] of ranges) {
    const before = joined.at(-1);
    if (before !== undefined && before[1] + 1 === first) joined.push([joined.pop()![0], last]);
    else joined.push([first, last]);
  }
  return joined;
}

/** `5300-5363`, or `7` for a single port. */
export function rangeText([first, last]: PortRange): string {
  return first === last ? `${first}` : `${first}-${last}`;
}

/** Ranges that are named before the rest is only counted. */
const RANGES_NAMED = 8;

/** Ports in ascending order as a sentence has them: `port 7 is`, `ports 7, 5300-5363 are`. */
export function portsText(ports: readonly number[]): string {
  if (ports.length === 1) return `port ${ports[0]} is`;
  const ranges = joinRanges(ports.map((port) => [port, port]));
  const more = countPorts(ranges.slice(RANGES_NAMED));
  const others = more === 0 ? "" : ` and ${more} more`;
  return `ports ${ranges.slice(0, RANGES_NAMED).map(rangeText).join(", ")}${others} are`;
}
