/**
 * Policy rules (`ip rule`). Tegula looks up as the three rules do that every namespace begins with:
 * `local`, then `main`. Any other rule is named once. They also tell whether the kernel has begun
 * to keep the two tables apart.
 */

import type { Rib } from "../../netbase/rib.ts";
import * as nl from "./codec.ts";
import { decodeRule, type MessageCursor, type RuleMessage } from "./codec.ts";
import { type MirrorPart, type Notices, Part } from "./part.ts";

/** Priority and table of the rules that every namespace begins with (fib_default_rules_init). */
const DEFAULT_RULES: { readonly [priority: number]: number } = {
  0: 255,
  32766: 254,
  32767: 253,
};

/** Looks at the rules. */
export class RulesPart implements MirrorPart {
  readonly bit = Part.rules;
  readonly dumps = ["rules"] as const;
  readonly types = [nl.RTM_NEWRULE, nl.RTM_DELRULE];
  readonly optional = true;
  /** Rules beyond the default ones, and default ones that are missing. */
  custom = 0;
  /**
   * Whether the kernel's lookup order is known from here: once a rule was touched it is settled.
   */
  touched = false;
  readonly #rib: Rib;
  readonly #notices: Notices;
  #found = 0;
  #defaults = 0;

  constructor(rib: Rib, notices: Notices) {
    this.#rib = rib;
    this.#notices = notices;
  }

  event(message: MessageCursor, replayed: boolean): number {
    if (decodeRule(message) === null || replayed) return 0;
    this.#separate();
    return Part.rules;
  }

  beginSync(): void {
    this.#found = this.#defaults = 0;
  }

  dumped(message: MessageCursor): void {
    const rule = decodeRule(message);
    if (rule === null) return;
    if (isDefault(rule)) {
      this.#defaults++;
      return;
    }
    this.#found++;
    const { priority, table, action } = rule;
    const what = action === nl.FR_ACT_TO_TBL ? `looks into table ${table}` : `has action ${action}`;
    this.#notices.unsupportedThing(`policy rule ${priority}, which ${what}: Tegula ignores it`);
  }

  endSync(): void {
    const missing = Object.keys(DEFAULT_RULES).length - this.#defaults;
    // A kernel without policy routing has no rules at all, and one order of lookup.
    this.custom = this.#found + (this.#defaults === 0 ? 0 : missing);
    if (this.custom > 0) this.#separate();
  }

  #separate(): void {
    this.touched = true;
    this.#rib.lookupOrder = "separate";
  }
}

function isDefault({ priority, table, action, selective }: RuleMessage): boolean {
  return !selective && action === nl.FR_ACT_TO_TBL && DEFAULT_RULES[priority] === table;
}
