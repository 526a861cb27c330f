/**
 * What an interface needs before Tegula can answer on it: to be there, up, with an address, and with an
 * MTU whose frames fit the UMEM.
 */

import { IFF_UP, type InterfaceReader } from "../../netbase/interfaces.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { delay } from "./delay.ts";
import { LARGEST_MTU } from "./plan.ts";

/** How often a start that waits looks again. */
const LOOK_AGAIN_MILLIS = 20;

/** An interface is not as it has to be. */
export class InterfaceError extends Error {}

/** What is wrong, and what mends it: of an interface a command. */
export interface Trouble {
  readonly says: string;
  readonly fix: string;
}

/** What an interface lacks to be served; null: nothing. */
export function lacking(interfaces: InterfaceReader, record: number): Trouble | null {
  const name = interfaces.name(record);
  if ((interfaces.flags(record) & IFF_UP) === 0) {
    return { says: "is down", fix: `ip link set ${name} up` };
  }
  if (interfaces.addressCount(record) > 0) return null;
  return { says: "has no IPv4 address", fix: `ip address add ADDRESS/LENGTH dev ${name}` };
}

/** Whether the largest frames of an interface do not fit a UMEM frame; null: they do. */
export function excess(interfaces: InterfaceReader, record: number): Trouble | null {
  const mtu = interfaces.mtu(record);
  // Loopback's MTU is that of nothing on a wire; what is too long there comes by the socket.
  if (mtu <= LARGEST_MTU || interfaces.isLoopback(record)) return null;
  return {
    says: `its MTU is ${mtu}, AF_XDP takes up to ${LARGEST_MTU} here`,
    fix: `ip link set ${interfaces.name(record)} mtu ${LARGEST_MTU}`,
  };
}

/** Waits until each interface exists in the mirror and lacks nothing, and says what it waits for. */
export async function waitForInterfaces(
  netbase: NetbaseReader,
  { names, log }: { names: readonly string[]; log(line: string): void },
): Promise<void> {
  const { interfaces } = netbase;
  for (const name of names) {
    for (let said = "";; await delay(LOOK_AGAIN_MILLIS)) {
      netbase.refresh();
      const record = interfaces.records().find((each) => interfaces.name(each) === name);
      const trouble = record === undefined
        ? { says: "is not there", fix: "ip link" }
        : lacking(interfaces, record);
      if (trouble === null) break;
      if (trouble.says !== said) log(`${name}: waiting, it ${trouble.says} ('${trouble.fix}')`);
      said = trouble.says;
    }
  }
}

/** Refuses interfaces whose largest frames do not fit. Throws InterfaceError. */
export function checkMtus({ interfaces }: NetbaseReader, names: readonly string[]): void {
  for (const record of interfaces.records()) {
    const name = interfaces.name(record);
    const trouble = names.includes(name) ? excess(interfaces, record) : null;
    if (trouble === null) continue;
    const { says, fix } = trouble;
    throw new InterfaceError(`${name}: ${says}: '${fix}' or use --provider socket`);
  }
}
