/** Signatures first; the implementation follows. @module */

/** The readers' side of the FIB. */
export declare class FibReader {
  /** Next hop id for an IPv4 address in host order (signed or unsigned); 0: no route. */
  lookup(address: number): number;
}
