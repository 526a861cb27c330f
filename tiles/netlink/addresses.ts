/**
 * IPv4 addresses as text and as numbers in host order.
 */

/** `0xc6120001` as `"198.18.0.1"`. */
export function formatAddress(address: number): string {
  return `${address >>> 24}.${address >>> 16 & 255}.${address >>> 8 & 255}.${address & 255}`;
}

/** A prefix as iproute2 prints it: `default`, a bare address for /32, else with its length. */
export function formatPrefix(destination: number, prefixLength: number): string {
  if (prefixLength === 0 && destination === 0) return "default";
  return prefixLength === 32
    ? formatAddress(destination)
    : `${formatAddress(destination)}/${prefixLength}`;
}

/** The address that `text` is in dotted decimals, or -1: also for 010.0.0.1, which `ip` takes for octal. */
export function parseAddress(text: string): number {
  if (/(^|\.)0\d/.test(text)) return -1;
  const digits = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)?.slice(1).map(Number);
  if (digits === undefined || digits.some((byte) => byte > 255)) return -1;
  return digits.reduce((address, byte) => address * 256 + byte, 0);
}
