// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { consoleTo, inName } from "../../../tiles/runtime/log.ts";

/** A console whose clock is turned by hand, and what it said. */
function talking() {
  const said: string[] = [];
  const clock = { millis: 0 };
  return { said, clock, console: consoleTo((line) => said.push(line), () => clock.millis) };
}

Deno.test("what a console is given is said on one line, values as Deno shows them", () => {
  const { said, console } = talking();
  console.log("got", 3, { a: [1] }, new Uint8Array(2));
  console.error("worse");
  console.assert(true, "not this");
  console.assert(1 > 2, "but this");
  assert.deepEqual(said, [
    "got 3 { a: [ 1 ] } Uint8Array(2) [ 0, 0 ]",
    "worse",
    "assertion failed: but this",
  ]);
});

/** Arguments of `console.log`, as a program has them. */
const CASES = `[
  ["%s is %d, %i, %f", "a", "42", 3.7, "2.5", "and", { more: 1 }],
  ["%o %O %j", { a: { b: 1 } }, [1, "x"], { x: [1] }, "%s"],
  ["%cred%c %% %x", "color: red", "", 1],
  ["100%", 5],
  ["100%"],
  ["%s"],
  ["%%"],
  ["%s %s", "one"],
  ["%d %i %f %s", Symbol("q"), Symbol("q"), Symbol("q"), Symbol("q")],
  ["%d %d %d %d %s", null, "0x10", 12n, -0, undefined],
  ["%s %s", ["x", "y"], new Error("why").message],
]`;

Deno.test("what stands for values in a text is filled in as Deno's own console does", () => {
  const { said, console: own } = talking();
  for (const one of new Function(`return ${CASES}`)()) own.log(...one);
  own.log("%s %j", Object.create(null), 1n);
  own.assert(false, "%s of %d", "one", 2);
  own.assert(false, { a: 1 }, "%s", 3);
  const program = `${CASES}.forEach((one) => console.log(...one))`;
  const args = ["eval", program];
  const { stdout } = new Deno.Command(Deno.execPath(), { args, env: { NO_COLOR: "1" } })
    .outputSync();
  const wanted = new TextDecoder().decode(stdout).trimEnd().split("\n");
  assert.deepEqual(said, [
    ...wanted,
    "%s %j [Object: null prototype] {} 1n",
    "assertion failed: one of 2",
    "assertion failed: { a: 1 } %s 3",
  ]);
});

Deno.test("a console has every method of Deno's, none of which writes anywhere else", () => {
  const { console: own } = talking();
  const missing = Object.entries(console).filter(([name, value]) =>
    typeof value === "function" && own[name] === undefined
  );
  assert.deepEqual(missing, []);
  own.count("x");
  own.timeEnd("x");
});

Deno.test("of what is said in a second 50 lines are, which the next one tells, and no more", () => {
  const { said, clock, console } = talking();
  for (let i = 0; i < 1000; i++) {
    clock.millis = i / 2;
    console.log(`line ${i}`);
  }
  assert.equal(said.length, 51);
  assert.equal(said[49], "line 49");
  assert.match(said[50], /more than 50 lines in a second/);
  clock.millis = 1000;
  console.log("later");
  assert.equal(said[51], "later");
});

Deno.test("a long line is cut", () => {
  const { said, console } = talking();
  console.log("x".repeat(1e6));
  assert.equal(said[0].length, 4097);
});

Deno.test("each line of what a tile says is in its name, whoever sent it", () => {
  assert.equal(inName("dns", "got x\nnet0: forged"), "dns: got x\ndns: net0: forged");
});

Deno.test("what would move a terminal is spelled out, tabs and all else as they are", () => {
  assert.equal(inName("dns", "a\x1b[2J\r\x07\x9bb\tc é"), "dns: a\\x1b[2J\\x0d\\x07\\x9bb\tc é");
});
