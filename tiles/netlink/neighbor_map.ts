/**
 * A map from neighbours, which are an interface and an IPv4 address on it.
 */

/**
 * Two maps deep: interface indices have up to 31 bits and addresses 32, which together are more
 * than a number holds exactly.
 */
export class NeighborMap<Value> {
  readonly #interfaces = new Map<number, Map<number, Value>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(ifindex: number, address: number): Value | undefined {
    return this.#interfaces.get(ifindex)?.get(address);
  }

  has(ifindex: number, address: number): boolean {
    return this.#interfaces.get(ifindex)?.has(address) === true;
  }

  set(ifindex: number, address: number, value: Value): void {
    let addresses = this.#interfaces.get(ifindex);
    if (addresses === undefined) this.#interfaces.set(ifindex, addresses = new Map());
    const before = addresses.size;
    addresses.set(address, value);
    this.#size += addresses.size - before;
  }

  delete(ifindex: number, address: number): boolean {
    const addresses = this.#interfaces.get(ifindex);
    if (addresses?.delete(address) !== true) return false;
    this.#size--;
    if (addresses.size === 0) this.#interfaces.delete(ifindex);
    return true;
  }

  /** `visit` may delete the one that it is given. */
  forEach(visit: (value: Value, ifindex: number, address: number) => void): void {
    for (const [ifindex, addresses] of this.#interfaces) {
      for (const [address, value] of addresses) visit(value, ifindex, address);
    }
  }

  clear(): void {
    this.#interfaces.clear();
    this.#size = 0;
  }
}
