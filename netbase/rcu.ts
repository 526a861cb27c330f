/** Signatures first; the implementation follows. @module */

/** What netbase's writer must know of each reader; a `TileReader` fits. */
export interface Reader {
  /** Has moved once the reader has let go of all it read before. */
  readonly burst: number;
  /** The reader blocks and holds nothing. */
  readonly asleep: boolean;
}
