// SPDX-License-Identifier: Apache-2.0
/**
 * Contests in which Tegula takes part twice: with the app in its own process, and inside the net tile.
 * Each case compares one of the two with all others.
 */

import { isWanted, type Samples, type Selection, TEGULA, type Unit } from "./harness.ts";

/** Tegula with an inline app. {@linkcode TEGULA} has it in a process of its own. */
export const INLINE = "tegula inline";

/** A case: one figure of `own`, beside that of the others. */
export interface PlacementCase<Field extends string> {
  readonly name: string;
  readonly unit: Unit;
  readonly field: Field;
  readonly own: string;
}

/** The cases of both placements: the name of `bench` with each suffix of `figures`. */
export function placementCases<Field extends string>(
  bench: string,
  figures: readonly { ending: string; unit: Unit; field: Field }[],
): PlacementCase<Field>[] {
  return [TEGULA, INLINE].flatMap((own) =>
    figures.map(({ ending, unit, field }) => {
      return { name: own.replace(TEGULA, bench) + ending, unit, field, own };
    })
  );
}

/** Those of `contestants` that the wanted `cases` need. */
export function entrants<T, Field extends string>(
  contestants: Readonly<Record<string, T>>,
  cases: readonly PlacementCase<Field>[],
  selection: Selection,
): Record<string, T> {
  const owns = new Set(
    cases.filter(({ name }) => isWanted(name, selection)).map(({ own }) => own),
  );
  const enters = (name: string) =>
    name === TEGULA || name === INLINE
      ? owns.has(name)
      : selection.peers === undefined || selection.peers.includes(name);
  return Object.fromEntries(Object.entries(contestants).filter(([name]) => enters(name)));
}

/** The samples of one case, `own` as {@linkcode TEGULA}. */
export function samplesOf<Field extends string>(
  turns: ReadonlyMap<string, readonly Partial<Record<Field, number>>[]>,
  { field, own }: PlacementCase<Field>,
): Samples {
  const samples = new Map<string, number[]>();
  for (const [name, all] of turns) {
    const figures = all.flatMap((turn) => turn[field] ?? []);
    const isOther = name !== own && (name === TEGULA || name === INLINE);
    if (figures.length > 0 && !isOther) samples.set(name === own ? TEGULA : name, figures);
  }
  return samples;
}
