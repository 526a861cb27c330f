/**
 * The packet filter's rules, as far as `tegula check` has to understand them: by `nft -j list ruleset`,
 * which shows what iptables-nft has made too, or where that is missing by `iptables-save`.
 */

/** What a rule asks of a packet. */
export interface Match {
  /** `iifname`, `l4proto`, `udp dport` for example. */
  readonly key: string;
  readonly negated: boolean;
  /** Values and ranges, one of which it is; null: not understood. */
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

/** Reads the rules of this network namespace. Throws Error when that is refused; null: no program to ask. */
export function readRuleset(): Ruleset | null {
  const nft = output("nft", "-j", "list", "ruleset");
  if (nft !== null) return parseNft(nft);
  const iptables = output("iptables-save");
  return iptables === null ? null : parseIptables(iptables);
}

/** What a program prints; null when there is none of that name. */
function output(program: string, ...args: string[]): string | null {
  try {
    const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
    if (success) return new TextDecoder().decode(stdout);
    throw new Error(`${program}: ${new TextDecoder().decode(stderr).trim().split("\n")[0]}`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

// deno-lint-ignore no-explicit-any -- nft's JSON (libnftables-json(5))
type Json = any;

/** Families whose chains see IPv4. */
const FAMILIES = ["ip", "inet", "netdev"];
/** Statements that decide nothing and change nothing, or are told apart from what a rule does. */
const SILENT = ["match", "jump", "goto", "return", "continue", "xt", "vmap"];

/** Reads what `nft -j list ruleset` prints. */
function parseNft(text: string): Ruleset {
  const objects: Json[] = JSON.parse(text).nftables;
  const of = (kind: string): Json[] =>
    objects.flatMap((each) => each[kind] ?? []).filter(({ family }) => FAMILIES.includes(family));
  const sets = new Map([...of("set"), ...of("map")].map((set) => [
    `${set.family} ${set.table} @${set.name}`,
    set.elem ?? [],
  ]));
  const rules = of("rule").map(({ family, table, chain, handle, comment, expr }): Rule => {
    const where = `${family} ${table}`;
    const valuesOf = (right: Json) => nftValues(right, (name) => sets.get(`${where} ${name}`));
    const matches = expr.flatMap(({ match, vmap }: Json) =>
      match !== undefined
        ? [nftMatch(match, valuesOf)]
        : vmap !== undefined
        ? [nftMatch({ op: "==", left: vmap.key, right: keysOf(vmap.data) }, valuesOf)]
        : []
    );
    const verdicts = JSON.stringify(expr);
    return {
      chain: `${where} ${chain}`,
      name: `rule ${where} ${chain} handle ${handle}${comment ? ` "${comment}"` : ""}`,
      matches,
      does: [
        ...expr.flatMap((each: Json) => Object.keys(each)).filter((key: string) =>
          !SILENT.includes(key)
        ),
        ...expr.flatMap(({ xt }: Json) => xt?.type === "target" ? [xt.name] : []),
        ...expr.some(({ vmap }: Json) => vmap)
          ? verdicts.match(/(?<=")(drop|accept)(?=")/g) ?? []
          : [],
      ],
      targets: [...verdicts.matchAll(/"target":\s*"([^"]+)"/g)].map(([, to]) => `${where} ${to}`),
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

function nftMatch({ op, left, right }: Json, valuesOf: (right: Json) => Match["values"]): Match {
  const key = left?.meta?.key ??
    (left?.payload?.protocol ? `${left.payload.protocol} ${left.payload.field}` : "");
  return { key, negated: op === "!=", values: valuesOf(right) };
}

function keysOf(data: Json): Json {
  return data?.set === undefined ? data : { set: data.set.map(([key]: Json) => key) };
}

function nftValues(right: Json, setNamed: (name: string) => Json[] | undefined): Match["values"] {
  if (typeof right === "string" && right.startsWith("@")) {
    right = { set: setNamed(right)?.map((each) => each?.elem?.val ?? each) };
  }
  const all = right?.set ?? [right];
  const values = [all].flat().map((each: Json) => each?.range ?? each);
  const isPlain = (each: Json) => ["string", "number"].includes(typeof each) || Array.isArray(each);
  return values.every(isPlain) ? values : null;
}

/** What iptables calls what the kernel leads packets to. */
const HOOKS = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "FORWARD"];
/** Options of iptables that are understood, and nft's keys for the same. */
const KEYS: Readonly<Record<string, string>> = {
  ...{ "-i": "iifname", "-o": "oifname", "-p": "l4proto" },
  ...{
    "--dport": "th dport",
    "--dports": "th dport",
    "--sport": "th sport",
    "--sports": "th sport",
  },
};

/** Reads what `iptables-save` prints. */
export function parseIptables(text: string): Ruleset {
  const rules: Rule[] = [];
  const chains: BaseChain[] = [];
  let table = "";
  for (const line of text.split("\n")) {
    const words = line.split(" ");
    if (line.startsWith("*")) table = line.slice(1);
    if (line.startsWith(":") && HOOKS.includes(words[0].slice(1))) {
      const hook = words[0].slice(1);
      const policy = words[1].toLowerCase();
      chains.push({
        chain: `${table} ${hook}`,
        hook: hook.toLowerCase(),
        interfaces: null,
        policy,
      });
    }
    if (words[0] !== "-A") continue;
    const target = words[words.findIndex((word) => word === "-j" || word === "-g") + 1];
    rules.push({
      chain: `${table} ${words[1]}`,
      name: `rule -t ${table} ${line}`,
      matches: words.flatMap((word, i) =>
        KEYS[word] === undefined ? [] : [{
          key: KEYS[word],
          negated: words[i - 1] === "!",
          values: words[i + 1].split(",").map(iptablesValue),
        }]
      ),
      does: words.includes("-j") && target !== "RETURN" ? [target.toLowerCase()] : ["counter"],
      targets: [`${table} ${target}`],
      removal: `iptables -t ${table} -D ${words.slice(1).join(" ")}`,
    });
  }
  const own = new Set(rules.map(({ chain }) => chain));
  return {
    rules: rules.map((rule) => own.has(rule.targets[0]) ? { ...rule, does: [] } : rule),
    chains,
  };
}

function iptablesValue(text: string): Value {
  const range = /^(\d+):(\d+)$/.exec(text);
  if (range !== null) return [Number(range[1]), Number(range[2])];
  return /^\d+$/.test(text) ? Number(text) : text.replace(/\+$/, "*");
}
