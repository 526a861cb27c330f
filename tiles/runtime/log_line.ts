/**
 * What a tile says, as it stands in the log. What a client sent may be in it, where an app says what it
 * got: that is not to pass for what another says, nor to reach a terminal as a command.
 */

/** Whatever is no line end and no tab of the control characters. */
const CONTROL = /[^\P{Cc}\t]/gu;

/** `text` with each of its lines in the name of the tile, and its control characters spelled out. */
export function inName(name: string, text: string): string {
  return text.split("\n").map((line) => `${name}: ${spelledOut(line)}`).join("\n");
}

/** A line with its control characters spelled out. */
export function spelledOut(line: string): string {
  return line.replace(CONTROL, spelled);
}

function spelled(character: string): string {
  return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
}
