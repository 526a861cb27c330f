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

/** `"198.51.100.0/24"`, or a bare address, as signed words; null: it is no prefix. */
export function parsePrefix(text: string): { address: number; mask: number } | null {
  const [address, length = "32", ...more] = text.split("/");
  const right = /^\d{1,2}$/.test(length) && Number(length) <= 32 && more.length === 0;
  if (!right || parseAddress(address) < 0) return null;
  const mask = (2 ** 32 - 2 ** (32 - Number(length))) | 0;
  return { address: parseAddress(address) & mask, mask };
}
