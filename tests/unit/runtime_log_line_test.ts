import { equal } from "node:assert/strict";
import { inName } from "../../tiles/runtime/log_line.ts";

Deno.test("each line of what a tile says is in its name, whoever sent it", () => {
  equal(inName("dns", "got x\nnet0: forged"), "dns: got x\ndns: net0: forged");
});

Deno.test("what would move a terminal is spelled out, tabs and all else as they are", () => {
  equal(inName("dns", "a\x1b[2J\r\x07\x9bb\tc é"), "dns: a\\x1b[2J\\x0d\\x07\\x9bb\tc é");
});
