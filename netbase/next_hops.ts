/** Signatures first; the implementation follows. @module */

/** The readers' side: records by the id that `FibReader.lookup` gives. Good until quiescent. */
export declare class NextHopReader {
  /** RTN_* or KIND_* */
  kind(id: number): number;
  /** RT_SCOPE_* of the route */
  scope(id: number): number;
  /** NextHopFlag */
  flags(id: number): number;
  gateway(id: number): number;
  ifindex(id: number): number;
  source(id: number): number;
  mtu(id: number): number;
  /** Groups: the member (a next hop id) that a flow takes. `flowHash` is 32 well-mixed bits. */
  member(id: number, flowHash: number): number;
  memberCount(id: number): number;
  /** Groups: id and weight of the `i`-th member. */
  memberId(id: number, i: number): number;
  memberWeight(id: number, i: number): number;
}
