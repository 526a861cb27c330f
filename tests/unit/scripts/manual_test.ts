// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { commandOf, COMMANDS, OTHER_COMMANDS } from "../../../cli/main.ts";
import { Exit, EXIT_STATUSES } from "../../../cli/command.ts";
import { announceSchema, appSchema, configSchema } from "../../../cli/config.ts";
import { manual } from "../../../scripts/manual.ts";

const FILES = await manual();
const COMPLETIONS = {
  bash: FILES["bash-completion/completions/tegula"],
  zsh: FILES["zsh/vendor-completions/_tegula"],
  fish: FILES["fish/vendor_completions.d/tegula.fish"],
};

/** What a program says of a text that it gets as a file; its exit status if that is not 0. */
function said(text: string, program: string, ...args: string[]): string {
  const file = Deno.makeTempFileSync();
  Deno.writeTextFileSync(file, text);
  const { code, stdout, stderr } = new Deno.Command(program, { args: [...args, file] })
    .outputSync();
  Deno.removeSync(file);
  const decoder = new TextDecoder();
  return `${decoder.decode(stdout)}${decoder.decode(stderr)}${code === 0 ? "" : code}`.trim();
}

/** The words that bash offers for the last of `words`. */
function offered(...words: string[]): string[] {
  const script = `${COMPLETIONS.bash}
    COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}) COMP_CWORD=${words.length - 1}
    _tegula; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return said(script, "bash").split("\n");
}

Deno.test("every command has a man page and completions, with each of its options", async () => {
  for (const [name, [summary]] of Object.entries(COMMANDS)) {
    const page = FILES[`man/man8/tegula-${name}.8`];
    assert.ok(page?.includes(summary.replaceAll("-", "\\-")), name);
    assert.ok(FILES["man/man8/tegula.8"].includes(`tegula\\-${name} (8)`), name);
    for (const text of Object.values(COMPLETIONS)) {
      assert.match(text, new RegExp(`\\b${name}\\b`), name);
    }
    assert.ok(offered("tegula", "").includes(name));
    const { declaration } = await commandOf(name);
    assert.equal(declaration.name, name);
    const offers = offered("tegula", name, "");
    for (const option of [...Object.keys(declaration.options), "help"]) {
      const text = `\\-\\-${option.replaceAll("-", "\\-")}`;
      assert.ok(page.includes(text), `${name} --${option}`);
      assert.ok(offers.includes(`--${option}`), `${name} --${option}`);
    }
    for (const word of Object.keys(declaration.words ?? {})) assert.ok(offers.includes(word));
  }
  for (const name of Object.keys(OTHER_COMMANDS)) assert.ok(offered("tegula", "").includes(name));
});

Deno.test("bash offers what fits, also as the value of an option", () => {
  assert.deepEqual(offered("tegula", "rel"), ["reload"]);
  assert.deepEqual(offered("tegula", "show", "r"), ["routes"]);
  assert.deepEqual(offered("tegula", "run", "--provider", "x"), ["xdp"]);
  assert.ok(offered("tegula", "run", "--interface", "").includes("lo"));
});

Deno.test("the shells can read their completions", () => {
  for (const [shell, text] of Object.entries(COMPLETIONS)) {
    assert.equal(said(text, shell, "-n"), "", shell);
  }
});

Deno.test("man can read the pages", () => {
  for (const [path, page] of Object.entries(FILES)) {
    if (path.startsWith("man/")) {
      assert.equal(said(page, "mandoc", "-Tlint", "-Wwarning"), "", path);
      // What was escaped before it is escaped has a backslash in print.
      assert.ok(!page.includes("\\e\\-"), path);
    }
  }
});

Deno.test("tegula.toml(5) explains each key, and tegula(8) each exit status", () => {
  const page = FILES["man/man5/tegula.toml.5"].replaceAll("\\-", "-");
  const shapes = [configSchema, announceSchema, appSchema].map(({ shape }) => Object.keys(shape));
  for (const key of shapes.flat()) {
    const item = { apps: "[apps.NAME]", announce: "[announce]" }[key] ?? key;
    assert.match(page, new RegExp(`^\\.B ${RegExp.escape(item)}\\n\\w.{9,}$`, "m"), key);
  }
  for (const [name, means] of Object.entries(EXIT_STATUSES)) {
    const item = `.B ${Exit[name as keyof typeof Exit]}\n${means}\n`;
    assert.ok(FILES["man/man8/tegula.8"].replaceAll("\\-", "-").includes(item), name);
  }
});
