/** Error numbers in messages. */

import { equal, throws } from "node:assert/strict";
import { checked, describeErrno, errnoName, SystemError } from "../../../ffi/library.ts";

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
