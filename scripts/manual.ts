// SPDX-License-Identifier: Apache-2.0
/**
 * Writes the man pages and the shells' completions below a folder, from the declarations of the commands and
 * of the configuration's keys:
 *
 *     deno run --allow-read --allow-env --allow-write scripts/manual.ts FOLDER
 */

import { dirname } from "node:path";
import project from "../deno.json" with { type: "json" };
import { type Declaration, EXIT_STATUSES, optionText } from "../cli/command.ts";
import { announceSchema, appSchema, CONFIG_OPTIONS, configSchema, keyOf } from "../cli/config.ts";
import { ABOUT, commandOf, COMMANDS, OTHER_COMMANDS, SUMMARIES } from "../cli/main.ts";

/** Names with their meanings. */
type List = readonly (readonly [name: string, help: string])[];

/** All files, by their paths below /usr/share. */
export async function manual(): Promise<Record<string, string>> {
  const commands = await Promise.all(
    Object.keys(COMMANDS).map(async (name) => (await commandOf(name)).declaration),
  );
  const pages = commands.map((one) => [`man/man8/tegula-${one.name}.8`, commandPage(one)]);
  return {
    ...Object.fromEntries(pages),
    "man/man8/tegula.8": programPage(),
    "man/man5/tegula.toml.5": configPage(),
    "bash-completion/completions/tegula": bash(commands),
    "zsh/vendor-completions/_tegula": zsh(commands),
    "fish/vendor_completions.d/tegula.fish": fish(commands),
  };
}

/** Escapes a text for troff: no character starts a request, and `-` stays ASCII. */
function roff(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll("…", "...")
    .replaceAll(/^([.'])/gm, "\\&$1");
}

function page(
  name: string,
  section: number,
  sections: readonly (readonly [heading: string, body: string])[],
): string {
  const date = new Date(Number(Deno.env.get("SOURCE_DATE_EPOCH") ?? 0) * 1000).toISOString();
  const title = `.TH ${roff(name.toUpperCase())} ${section} ${date.slice(0, 10)}`;
  const parts = sections.map(([heading, body]) => `.SH ${heading}\n${body}`);
  return [`${title} "Tegula ${project.version}" Tegula`, ...parts].join("\n") + "\n";
}

function paragraphs(text: string): string {
  return text.split("\n\n").map(roff).join("\n.PP\n");
}

function list(entries: List): string {
  return entries.map(([name, help]) => `.TP\n.B ${roff(name)}\n${roff(help)}`).join("\n");
}

/** References to pages of section 8, and to others. */
function seeAlso(names: readonly string[]): string {
  return names.map((name) => `.BR ${roff(name)}`).join(" ,\n");
}

function commandPage({ name, usage, about, words = {}, options, status }: Declaration): string {
  const ways = usage.map((each) => `.B tegula ${name}\n${roff(each)}`).join("\n.br\n");
  const flags = Object.entries(options).map(([name, option]) =>
    [optionText(name, option), option.help] as const
  );
  const exits = status ?? "0 done, else the status of the error, as in tegula(8).";
  return page(`tegula-${name}`, 8, [
    ["NAME", `tegula\\-${name} \\- ${roff(COMMANDS[name][0])}`],
    ["SYNOPSIS", ways],
    ["DESCRIPTION", [paragraphs(about), list(Object.entries(words))].filter(Boolean).join("\n")],
    ["OPTIONS", list(flags)],
    ["EXIT STATUS", roff(exits)],
    ["SEE ALSO", seeAlso(["tegula (8)", "tegula.toml (5)"])],
  ]);
}

function programPage(): string {
  const commands = Object.entries(COMMANDS);
  return page("tegula", 8, [
    ["NAME", `tegula \\- ${roff(ABOUT)}`],
    ["SYNOPSIS", ".B tegula\nCOMMAND [OPTIONS]"],
    [
      "DESCRIPTION",
      paragraphs(
        "Tegula serves UDP and bypasses the kernel's socket layer. Interfaces, addresses, routes and neighbours " +
          "are configured as before. Packets that are not for its ports go to the kernel unchanged.\n\nNames of " +
          "commands and of their topics may be abbreviated, as for ip(8).",
      ),
    ],
    [
      "COMMANDS",
      list([
        ...commands.map(([name, [summary]]) => [name, `${summary}: tegula-${name}(8)`] as const),
        ...Object.entries(OTHER_COMMANDS),
      ]),
    ],
    [
      "EXIT STATUS",
      list(Object.values(EXIT_STATUSES).map((means, status) => [`${status}`, means])),
    ],
    [
      "FILES",
      list([
        ["/etc/tegula/tegula.toml", "the configuration of the service"],
        ["/run/tegula/*.sock", "control sockets"],
        ["/usr/share/doc/tegula", "the documentation"],
      ]),
    ],
    [
      "SEE ALSO",
      seeAlso(["tegula.toml (5)", ...commands.map(([name]) => `tegula-${name} (8)`), "ip (8)"]),
    ],
  ]);
}

function configPage(): string {
  const helpOf = (key: string) =>
    Object.entries(CONFIG_OPTIONS).find(([option]) => keyOf(option) === key)?.[1].help;
  const keys = (shape: Readonly<Record<string, { description?: string }>>): List =>
    Object.entries(shape).map(([key, type]) => [
      { apps: "[apps.NAME]", announce: "[announce]" }[key] ?? key,
      type.description ?? helpOf(key) ?? "",
    ]);
  const example = Deno.readTextFileSync(new URL("../packaging/tegula.toml", import.meta.url));
  return page("tegula.toml", 5, [
    ["NAME", "tegula.toml \\- configuration of tegula(8)"],
    [
      "DESCRIPTION",
      paragraphs(
        "A file in TOML that 'tegula run --config FILE' reads. Options of tegula-run(8) override it, " +
          "except that they add interfaces and ports. Relative paths begin at the file's " +
          "folder. 'tegula check --config FILE' reports its errors; 'tegula reload' applies it.",
      ),
    ],
    ["KEYS", list(keys(configSchema.shape))],
    ["KEYS OF [announce]", list(keys(announceSchema.shape))],
    ["KEYS OF AN APP", list(keys(appSchema.shape))],
    ["EXAMPLE", `.nf\n${roff(example.trim())}\n.fi`],
    ["SEE ALSO", seeAlso(["tegula (8)", "tegula-run (8)", "tegula-check (8)"])],
  ]);
}

/** How a shell completes a value: by the names of files or of interfaces, or by a few words, if there are any. */
interface Ways {
  readonly files: string;
  readonly interfaces: string;
  readonly words: (words: readonly string[]) => string;
}

function completed(value: string, { files, interfaces, words }: Ways): string {
  if (/^(PATH|FILE)$/.test(value)) return files;
  if (value === "IF") return interfaces;
  return words(/^[a-z]/.test(value) ? value.split("|") : []);
}

/** The forms of an option on a command line. */
function flagsOf(name: string, { short }: { short?: string }): string[] {
  return [`--${name}`, ...short === undefined ? [] : [`-${short}`]];
}

/** The beginning of a sentence that is short enough for a line of completions, without quotes. */
function brief(help: string): string {
  return help.split(/[;.:(]/)[0].replaceAll(/['"`\[\]\\]/g, "").trim();
}

function bash(commands: readonly Declaration[]): string {
  const reply = (words: string) => `COMPREPLY=($(compgen -W "${words}" -- "$word"))`;
  const ways: Ways = {
    files: 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$word"))',
    interfaces: reply("$(ls /sys/class/net)"),
    words: (words) => reply(words.join(" ")),
  };
  const values = commands.flatMap(({ name, options }) =>
    Object.entries(options).flatMap(([option, declared]) => {
      if (declared.value === undefined) return [];
      const pattern = flagsOf(option, declared).map((flag) => `"${name} ${flag}"`).join(" | ");
      return [`    ${pattern}) ${completed(declared.value, ways)}; return ;;`];
    })
  );
  const words = commands.map(({ name, words = {}, options }) => {
    const all = [...Object.keys(words), ...Object.keys(options).map((each) => `--${each}`)];
    return `    ${name}) words="${all.join(" ")}" ;;`;
  });
  const names = SUMMARIES.map(([name]) => name).join(" ");
  return `# bash completion for tegula
_tegula() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD - 1]} words
  case "\${COMP_WORDS[1]} $before" in
${values.join("\n")}
  esac
  case "\${COMP_WORDS[1]}" in
${words.join("\n")}
    *) words="${names}" ;;
  esac
  ((COMP_CWORD > 1)) || words="${names}"
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _tegula tegula
`;
}

function zsh(commands: readonly Declaration[]): string {
  const ways: Ways = {
    files: "_files",
    interfaces: "_net_interfaces",
    words: (words) => words.length > 0 ? `(${words.join(" ")})` : " ",
  };
  const summaries = SUMMARIES.map(([name, help]) => `    '${name}:${brief(help)}'`);
  const cases = commands.map(({ name, words, options }) => {
    const specs = Object.entries(options).flatMap(([option, declared]) => {
      const { value, multiple, help } = declared;
      const action = value === undefined ? "" : `:${value}:${completed(value, ways)}`;
      return flagsOf(option, declared).map((flag) =>
        `'${multiple ? "*" : ""}${flag}[${brief(help)}]${action}'`
      );
    });
    if (words !== undefined) specs.push(`'1:what:(${Object.keys(words).join(" ")})'`);
    return `    ${name}) _arguments ${specs.join(" \\\n      ")} ;;`;
  });
  return `#compdef tegula
_tegula() {
  local -a commands=(
${summaries.join("\n")}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  shift words
  ((CURRENT--))
  case $words[1] in
${cases.join("\n")}
  esac
}
_tegula "$@"
`;
}

function fish(commands: readonly Declaration[]): string {
  const ways: Ways = {
    files: " -r -F",
    interfaces: " -x -a '(ls /sys/class/net)'",
    words: (words) => words.length > 0 ? ` -x -a '${words.join(" ")}'` : " -x",
  };
  const line = (condition: string, what: string, help: string) =>
    `complete -c tegula -n '${condition}' ${what} -d '${brief(help)}'`;
  const lines = SUMMARIES
    .map(([name, help]) => line("__fish_use_subcommand", `-a ${name}`, help));
  for (const { name, words = {}, options } of commands) {
    const within = `__fish_seen_subcommand_from ${name}`;
    for (const [word, help] of Object.entries(words)) lines.push(line(within, `-a ${word}`, help));
    for (const [option, { short, value, help }] of Object.entries(options)) {
      const flags = `${short === undefined ? "" : `-s ${short} `}-l ${option}`;
      const takes = value === undefined ? "" : completed(value, ways);
      lines.push(line(within, flags + takes, help));
    }
  }
  return ["# fish completion for tegula", "complete -c tegula -f", ...lines].join("\n") + "\n";
}

if (import.meta.main) {
  for (const [path, text] of Object.entries(await manual())) {
    const file = `${Deno.args[0]}/${path}`;
    Deno.mkdirSync(dirname(file), { recursive: true });
    Deno.writeTextFileSync(file, text);
  }
}
