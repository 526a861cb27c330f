// SPDX-License-Identifier: Apache-2.0
/** `deno task bench … --against REF`: its options, its figures, and what it does with git. */

import assert from "node:assert/strict";
import {
  againstOptions,
  compare,
  type Comparison,
  type Round,
  type Row,
  rowsOf,
  tableOf,
} from "../../../bench/against.ts";
import { interval, median, type Result, type Unit } from "../../../bench/harness.ts";
import { eventually } from "../../eventually.ts";
import fc from "../property.ts";

const AGAINST = new URL("../../../bench/against.ts", import.meta.url).href;

function result(name: string, unit: Unit, tegula: number): Result {
  const none = { peers: {}, ratio: {}, ratioLow: {}, ratioHigh: {} };
  return { bench: "b", case: name, unit, tegula, ...none, runs: 1, spread: 0 };
}

/** Rounds of one case, from pairs of figures. */
function roundsOf(unit: Unit, pairs: readonly (readonly [own: number, other: number])[]): Round[] {
  return pairs.map(([own, other]) => ({
    own: [result("c", unit, own)],
    other: [result("c", unit, other)],
  }));
}

Deno.test("a ratio above 1 says that this tree is better, whichever way the unit goes", () => {
  const pairs = [[200, 100], [220, 100], [180, 100]] as const;
  const [rate] = rowsOf(roundsOf("kpps", pairs));
  assert.deepEqual([rate.better, rate.tegula, rate.against], ["higher", 200, 100]);
  assert.deepEqual([rate.ratio, rate.ratioLow, rate.ratioHigh, rate.rounds], [2, 1.8, 2.2, 3]);
  const [time] = rowsOf(roundsOf("ns/op", pairs));
  assert.deepEqual([time.better, time.ratio], ["lower", 0.5]);
});

Deno.test("ratios are of one round each: a machine that slows down is in both", () => {
  const slower = Array.from({ length: 9 }, (_, i) => [1010 / (i + 1), 1000 / (i + 1)] as const);
  const [row] = rowsOf(roundsOf("kqps", slower));
  for (const figure of [row.ratio, row.ratioLow, row.ratioHigh]) {
    assert.ok(Math.abs(figure - 1.01) < 1e-9, String(figure));
  }
});

Deno.test("the interval has the median, and of two trees in turn one is as good as the other is bad", () => {
  const figure = fc.double({ min: 1, max: 1e6, noNaN: true });
  const pairs = fc.array(fc.tuple(figure, figure), { minLength: 1, maxLength: 30 });
  fc.assert(fc.property(pairs, (pairs) => {
    const [row] = rowsOf(roundsOf("kpps", pairs));
    assert.ok(row.ratioLow <= row.ratio && row.ratio <= row.ratioHigh);
    const ratios = pairs.map(([own, other]) => own / other);
    assert.deepEqual([row.ratioLow, row.ratioHigh], interval(ratios));
    assert.equal(row.ratio, median(ratios));
    const [turned] = rowsOf(roundsOf("kpps", pairs.map(([own, other]) => [other, own])));
    assert.ok(Math.abs(turned.ratioLow * row.ratioHigh - 1) < 1e-9);
  }));
});

Deno.test("a case that one tree lacks has no row, and one of zeros is equal", () => {
  const own = [result("new", "kpps", 1), result("gc", "GCs/min", 0), result("unit", "kpps", 1)];
  const other = [result("gc", "GCs/min", 0), result("unit", "kqps", 1), result("old", "kpps", 1)];
  const rows = rowsOf([{ own, other }]);
  assert.deepEqual(rows.map((row) => [row.case, row.ratio]), [["gc", 1]]);
  assert.deepEqual(rowsOf([]), []);
});

Deno.test("each row of the table names its direction, its ratio and its interval", () => {
  const rows = rowsOf(roundsOf("ns/op", [[100, 97], [100, 98], [100, 99]]));
  const [head, line] = tableOf(rows, "cf95897").split("\n");
  assert.match(head, /^case +unit +better +this tree +cf95897 +times as good +interval +rounds$/);
  assert.match(line, /^c +ns\/op +lower +100\.0 +98\.0 +0\.980 +0\.970 to 0\.990 +3$/);
});

Deno.test("options of a comparison make sense only with one", () => {
  assert.equal(againstOptions({}), null);
  assert.deepEqual(againstOptions({ against: "HEAD~1" }), {
    ref: "HEAD~1",
    rounds: 9,
    minutes: 20,
  });
  assert.deepEqual(againstOptions({ against: "x", patch: "p", rounds: "3", minutes: "1" }), {
    ...{ ref: "x", patch: "p", rounds: 3, minutes: 1 },
  });
  for (const alone of ["patch", "rounds", "minutes"]) {
    assert.throws(() => againstOptions({ [alone]: "3" }), new RegExp(`--${alone} goes with`));
  }
  for (const rounds of ["0", "-1", "x", "1.5"]) {
    assert.throws(() => againstOptions({ against: "x", rounds }), /--rounds/);
  }
  for (const against of ["", "--exec"]) {
    assert.throws(() => againstOptions({ against }), /--against takes a commit/);
  }
});

/** A project with two commits, whose benchmark prints the contents of a file, and notes its turns. */
class Project implements AsyncDisposable {
  readonly root = Deno.makeTempDirSync({ prefix: "tegula-test-" });
  readonly #log = `${this.root}/turns`;

  constructor() {
    this.#write(
      "deno.json",
      JSON.stringify({ tasks: { build: "echo built > built", bench: "sh run.sh" } }),
    );
    this.#write("deno.lock", '{"version":"5"}');
    this.#write("figure", "100");
    this.#write(
      "run.sh",
      `cat built >/dev/null || exit 1
echo "$(cat figure) $*" >> ${this.#log}
test ! -e ${this.root}/hang || { touch ${this.root}/hanging; sleep 1000; }
echo '{"bench":"b","case":"c","unit":"kpps","tegula":'$(cat figure)'}'`,
    );
    this.#git("init", "--quiet");
    this.#git("add", "--all");
    this.commit();
    this.#write("figure", "200");
    this.#write("built", "");
  }

  #write(name: string, text: string): void {
    Deno.writeTextFileSync(`${this.root}/${name}`, text);
  }

  #git(...args: string[]): string {
    const settings = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
    const { success, stdout, stderr } = new Deno.Command("git", {
      args: ["-C", this.root, ...settings, ...args],
    }).outputSync();
    assert.ok(success, new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout);
  }

  commit(): void {
    this.#git("commit", "--all", "--quiet", "--message", "x");
  }

  /** What each turn had for a figure, in order, and its arguments. */
  get turns(): string[] {
    return Deno.readTextFileSync(this.#log).trimEnd().split("\n");
  }

  /** Work trees that git knows. */
  get workTrees(): number {
    return this.#git("worktree", "list").trimEnd().split("\n").length;
  }

  write(name: string, text: string): string {
    this.#write(name, text);
    return `${this.root}/${name}`;
  }

  compare(options: Partial<Comparison> = {}): Promise<Row[]> {
    const rows: Row[] = [];
    return compare(["b"], {
      ...{ root: this.root, ref: "HEAD", rounds: 3, minutes: 1, args: ["--runs", "1"] },
      begin() {},
      report: (more) => rows.push(...more),
      progress() {},
      ...options,
    }).then(() => rows);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Deno.remove(this.root, { recursive: true });
  }
}

/** Folders that comparisons have left. */
function leftovers(): string[] {
  const folder = Deno.env.get("TMPDIR") ?? "/tmp";
  return [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => name.startsWith("tegula-against-"));
}

Deno.test("both trees are built and take turns, A B B A, and no work tree is left", async () => {
  await using project = new Project();
  const before = leftovers();
  let commits = {};
  const rows = await project.compare({ begin: (given) => commits = given });
  const turn = (figure: number) => `${figure} b --json --runs 1`;
  assert.deepEqual(project.turns, [200, 100, 100, 200, 200, 100].map(turn));
  assert.deepEqual(rows.map(({ ratio, rounds }) => [ratio, rounds]), [[2, 3]]);
  assert.match(JSON.stringify(commits), /"own":"\w+ with changes","other":"\w+","note":""/);
  assert.deepEqual([project.workTrees, leftovers()], [1, before]);
});

Deno.test("a patch changes the other commit alone", async () => {
  await using project = new Project();
  const patch = project.write(
    "cure.patch",
    "--- a/figure\n+++ b/figure\n@@ -1 +1 @@\n-100\n\\ No newline at end of file\n+50\n",
  );
  const [row] = await project.compare({ patch, rounds: 1 });
  assert.deepEqual([row.tegula, row.against], [200, 50]);
});

Deno.test("a comparison that fails says why, and leaves no work tree", async () => {
  await using project = new Project();
  const before = leftovers();
  await assert.rejects(project.compare({ ref: "nothing" }), /nothing/);
  await assert.rejects(project.compare({ patch: project.write("p", "no patch") }), /git apply/);
  project.write("run.sh", "echo it does not run >&2; exit 1");
  await assert.rejects(project.compare(), /it does not run/);
  assert.deepEqual([project.workTrees, leftovers()], [1, before]);
});

Deno.test("a round that fails is left out, and said", async () => {
  await using project = new Project();
  // This tree's second turn fails, once.
  const run = Deno.readTextFileSync(`${project.root}/run.sh`);
  project.write(
    "run.sh",
    `test $(grep -c ^200 turns) != 1 || { echo "200 x" >> turns; exit 1; }\n${run}`,
  );
  const said: string[] = [];
  const [row] = await project.compare({ progress: (line) => said.push(line) });
  assert.deepEqual([row.ratio, row.rounds], [2, 3]);
  assert.match(said.join("\n"), /^b: a round failed: /m);
});

for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
  Deno.test(`a comparison that ${signal} ends takes its work tree and processes along`, async () => {
    await using project = new Project();
    const before = leftovers();
    project.write("hang", "");
    const program = `import { compare } from "${AGAINST}";
      await compare(["b"], { root: "${project.root}", ref: "HEAD", rounds: 1, minutes: 1, args: [],
        begin() {}, report() {}, progress() {} });`;
    const child = new Deno.Command(Deno.execPath(), { args: ["eval", program] }).spawn();
    await eventually("a turn", async () => {
      return await Deno.stat(`${project.root}/hanging`).then(() => true, () => undefined);
    });
    child.kill(signal);
    assert.equal((await child.status).code, code);
    assert.deepEqual([project.workTrees, leftovers()], [1, before]);
    await eventually("the end of what it started", () => {
      const { success } = new Deno.Command("pgrep", {
        ...{ args: ["--full", `^sh run.sh b --json$`], stdout: "null" },
      }).outputSync();
      return Promise.resolve(success ? undefined : true);
    });
  });
}
