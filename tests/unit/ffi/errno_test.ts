// SPDX-License-Identifier: Apache-2.0
/** Error numbers in messages. */

import { equal, throws } from "node:assert/strict";
import { checked, describeErrno, errnoName, inWords, SystemError } from "../../../ffi/library.ts";

Deno.test("errnoName() and describeErrno() take either sign", () => {
  equal(errnoName(-16), "EBUSY");
  equal(errnoName(16), "EBUSY");
  equal(describeErrno(-1), "EPERM, operation not permitted");
  equal(describeErrno(-95), "EOPNOTSUPP, operation not supported");
});

Deno.test("an error without a known name keeps its number", () => {
  equal(errnoName(-4000), "errno 4000");
  equal(describeErrno(-4000), "errno 4000");
});

Deno.test("checked() hands a count on and throws for -errno, saying what was tried", () => {
  equal(checked(0, "open it"), 0);
  equal(checked(7, "open it"), 7);
  throws(
    () => checked(-12, "open it"),
    (error: unknown) =>
      error instanceof SystemError && error.errno === 12 &&
      error.message === "cannot open it: ENOMEM, not enough memory",
  );
});

Deno.test("inWords() replaces Deno's words for what the system refused", () => {
  for (
    const [tried, says] of [
      [() => Deno.readTextFileSync("/none"), "/none: not found"],
      [() => Deno.readTextFileSync("/tmp"), "/tmp: it is a folder"],
      [() => Deno.readDirSync("/etc/passwd"), "/etc/passwd: not a folder"],
      [() => new Deno.Command("/none").outputSync(), "Failed to spawn '/none': not found"],
    ] as const
  ) {
    throws(tried, (error: Error) => inWords(error.message) === says);
  }
  equal(inWords("Strange Thing (os error 4000)"), "strange thing");
  equal(inWords("nothing of the system"), "nothing of the system");
  equal(
    inWords("a: B (os error 4000): open '/x', c: D (os error 4001)"),
    "a: /x: b, c: D (os error 4001)",
  );
  // It takes time in proportion to its length: a stranger may have chosen it.
  const long = " x".repeat(10_000_000);
  equal(inWords(long), long);
});
