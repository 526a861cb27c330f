// SPDX-License-Identifier: Apache-2.0
/** Numbers among the options of the apps that ship. */

import type { AppContext } from "../tiles/app/contract.ts";

/** The inclusive range of a number, and its default. */
interface Bounds {
  readonly usual: number;
  readonly least: number;
  readonly most: number;
}

type Options = AppContext["options"];

/** The option `name`, which may have a fraction. Throws TypeError. */
export function numberOption(
  options: Options,
  name: string,
  { usual, least, most }: Bounds,
  isWhole = false,
): number {
  const { [name]: value = usual } = options;
  const isRight = typeof value === "number" && (!isWhole || Number.isInteger(value));
  if (isRight && value >= least && value <= most) return value;
  const what = isWhole ? "a whole number" : "a number";
  throw new TypeError(`options.${name}: must be ${what} from ${least} to ${most}`);
}

/** The option `name`, a whole number. Throws TypeError. */
export function wholeOption(options: Options, name: string, bounds: Bounds): number {
  return numberOption(options, name, bounds, true);
}
