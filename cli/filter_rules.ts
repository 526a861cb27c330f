/**
 * The packet filter's rules, as far as `tegula check` has to understand them: by `nft -j list ruleset`,
 * which shows what iptables has made too, but for iptables-legacy.
 */

/** What a rule asks of a packet. */
export interface Match {
  /** `iifname`, `l4proto`, `udp dport` for example. */
  readonly key: string;
  readonly negated: boolean;
  /** Values and ranges, one of which it is; null: not understood, as a set that has a name is not. */
  readonly values: readonly Value[] | null;
}

/** A value, or a range with its ends. A text may end with `*`. */
type Value = string | number | readonly [number, number];

/** A rule. */
export interface Rule {
  /** Where it stands, as a command names it: `inet filter input`. */
  readonly chain: string;
  /** What it is called for a reader. */
  readonly name: string;
  readonly matches: readonly Match[];
  /** What it does with a packet, in the filter's own words: `drop`, `counter`. */
  readonly does: readonly string[];
  /** Chains that it leads to. */
  readonly targets: readonly string[];
  /** The command that takes it away. */
  readonly removal: string;
}

/** A chain that the kernel itself leads packets to. */
export interface BaseChain {
  readonly chain: string;
  readonly hook: string;
  /** The interfaces that it is for; null: all. */
  readonly interfaces: readonly string[] | null;
  /** What becomes of a packet that no rule decides about. */
  readonly policy: string;
}

/** All rules that there are. */
export interface Ruleset {
  readonly rules: readonly Rule[];
  readonly chains: readonly BaseChain[];
}

/** Reads the rules of this network namespace. Throws Error, Deno's NotFound where there is no nft. */
export function readRuleset(): Ruleset {
  const args = ["-j", "list", "ruleset"];
  const { success, stdout, stderr } = new Deno.Command("nft", { args }).outputSync();
  if (success) return parseNft(new TextDecoder().decode(stdout));
  throw new Error(`nft: ${new TextDecoder().decode(stderr).trim().split("\n")[0]}`);
}

// deno-lint-ignore no-explicit-any -- nft's JSON (libnftables-json(5))
type Json = any;

/** Families whose chains see IPv4. */
const FAMILIES = ["ip", "inet", "netdev"];
/** Statements that decide nothing and change nothing, or are told apart from what a rule does. */
const SILENT = ["match", "jump", "goto", "return", "continue", "xt"];

/** Reads what `nft -j list ruleset` prints. */
function parseNft(text: string): Ruleset {
  const objects: Json[] = JSON.parse(text).nftables;
  const of = (kind: string): Json[] =>
    objects.flatMap((each) => each[kind] ?? []).filter(({ family }) => FAMILIES.includes(family));
  const rules = of("rule").map(({ family, table, chain, handle, comment, expr }): Rule => {
    const where = `${family} ${table}`;
    return {
      chain: `${where} ${chain}`,
      name: `rule ${where} ${chain} handle ${handle}${comment ? ` "${comment}"` : ""}`,
      matches: expr.flatMap(({ match }: Json) => match === undefined ? [] : [nftMatch(match)]),
      does: expr.flatMap((each: Json) =>
        each.xt?.type === "target"
          ? [each.xt.name]
          : Object.keys(each).filter((statement) => !SILENT.includes(statement))
      ),
      // Those of a map of verdicts too.
      targets: [...JSON.stringify(expr).matchAll(/"target":\s*"([^"]+)"/g)]
        .map(([, to]) => `${where} ${to}`),
      removal: `nft delete rule ${where} ${chain} handle ${handle}`,
    };
  });
  const chains = of("chain").filter(({ hook }) => hook !== undefined).map((
    { family, table, name, hook, dev, policy },
  ) => ({
    chain: `${family} ${table} ${name}`,
    hook,
    interfaces: dev === undefined ? null : [dev].flat(),
    policy: policy ?? "accept",
  }));
  return { rules, chains };
}

function nftMatch({ op, left, right }: Json): Match {
  const key = left?.meta?.key ??
    (left?.payload?.protocol ? `${left.payload.protocol} ${left.payload.field}` : "");
  const values = [right?.set ?? right].flat().map((each: Json) => each?.range ?? each);
  const isPlain = (each: Json) =>
    Array.isArray(each) || typeof each === "number" || typeof each === "string" && each[0] !== "@";
  return { key, negated: op === "!=", values: values.every(isPlain) ? values : null };
}
