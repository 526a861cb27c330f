// SPDX-License-Identifier: Apache-2.0
/** Properties of the machine that affect results: the CPU, the clock source, the kernel, Deno. */

import { attempt } from "../ffi/library.ts";

/** This machine. Properties that cannot be determined are "unknown". */
export function machine() {
  const cpuinfo = read("/proc/cpuinfo");
  const clocksource = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
  return {
    cpu: /^(?:model name|CPU part)\s*: (.*)$/m.exec(cpuinfo)?.[1] ?? "unknown CPU",
    cores: navigator.hardwareConcurrency,
    pku: pku(cpuinfo),
    clocksource: read(clocksource) || "unknown",
    kernel: Deno.osRelease(),
    deno: Deno.version.deno,
    v8: Deno.version.v8,
  };
}

/**
 * Whether the CPU of a /proc/cpuinfo has memory protection keys: "yes", "no", or "unknown" if it lists no
 * features. x86 calls them flags, aarch64 Features.
 */
export function pku(cpuinfo: string): "yes" | "no" | "unknown" {
  const features = /^(?:flags|Features)\s*: (.*)$/m.exec(cpuinfo)?.[1].split(" ");
  return features === undefined ? "unknown" : features.includes("pku") ? "yes" : "no";
}

/** The kernel's landlock version, "none", or "unknown". */
export function landlock(): string {
  // landlock_create_ruleset(2), with the same number on all architectures, and the flag for a query.
  const [SYS_LANDLOCK_CREATE_RULESET, LANDLOCK_CREATE_RULESET_VERSION] = [444n, 1];
  return attempt(() => {
    const libc = Deno.dlopen("libc.so.6", {
      syscall: { parameters: ["i64", "pointer", "usize", "u32"], result: "i64" },
    });
    const version = libc.symbols.syscall(
      SYS_LANDLOCK_CREATE_RULESET,
      null,
      0n,
      LANDLOCK_CREATE_RULESET_VERSION,
    );
    libc.close();
    return version > 0n ? `${version}` : "none";
  }, "unknown");
}

/** The text of a file, or "" if it cannot be read. */
function read(path: string): string {
  return attempt(() => Deno.readTextFileSync(path).trim(), "");
}
