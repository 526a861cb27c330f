// SPDX-License-Identifier: Apache-2.0
/**
 * What each wall of a tile's or an app's confinement refuses alone. `attempts.c` makes the system calls, without
 * Deno, behind capabilities, landlock or seccomp, so that no wall is covered by another. What is tried
 * works where there is no wall.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { mustRun } from "../bare_root.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const FOLDER = Deno.makeTempDirSync({ prefix: "tegula-confinement-" });
const PROGRAM = `${FOLDER}/attempts`;

mustRun([
  ...["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-result", `-I${ROOT}build`],
  ...["-o", PROGRAM, `${ROOT}tests/fixtures/isolation/attempts.c`],
]);

/** As in policy.h; an app's process has no role. */
const ROLES = { app: -1, netlink: 0, net: 1, status: 2 };
const GRANTS = { net: 1, write: 4, watch: 32 };

/** What a kernel may be built or told not to offer. */
const NOT_EVERYWHERE = [
  "count_performance",
  "make_a_user_namespace",
  "make_an_io_uring",
  "type_into_a_terminal",
];

/** The result of each attempt behind a wall, by its name, and the version of landlock. */
function behind(wall: string, role: keyof typeof ROLES = "net", grants = 0): Map<string, string> {
  const folder = Deno.makeTempDirSync({ dir: FOLDER });
  const { success, stdout } = new Deno.Command("unshare", {
    args: ["--mount", PROGRAM, wall, `${ROLES[role]}`, `${grants}`],
    cwd: folder,
  }).outputSync();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  assert.ok(success, lines.join("\n"));
  return new Map(lines.map((line) => line.split(/ (.*)/, 2) as [string, string]));
}

const open = behind("none");
const landlockVersion = Number(open.get("landlock"));
open.delete("landlock");
/** The attempts that this kernel lets somebody succeed with who is not confined. */
const POSSIBLE = [...open.keys()].filter((name) => open.get(name) === "ok");

/** The names of those with this result, of the possible ones, in order. */
function those(results: Map<string, string>, wanted: (result: string) => boolean): string[] {
  return POSSIBLE.filter((name) => wanted(results.get(name)!)).sort();
}

/** `names` without what is not possible here. */
function possible(names: readonly string[]): string[] {
  return names.filter((name) => POSSIBLE.includes(name)).sort();
}

Deno.test("what the walls are tried with succeeds where there is none", () => {
  const failing = [...open].filter(([name, result]) =>
    result !== "ok" && !NOT_EVERYWHERE.includes(name)
  );
  assert.deepEqual(failing, []);
});

/** What seccomp alone leaves to each kind of tile, besides waiting, waking, memory and time. */
const LEFT = {
  net: ["send_by_its_own_socket"],
  netlink: ["send_by_its_own_socket"],
  status: ["accept_a_connection", "receive_by_a_socket_of_others", "send_by_a_connection"],
};

for (const role of ["net", "netlink", "status"] as const) {
  Deno.test(`seccomp alone refuses a ${role} tile every call that is not its job`, () => {
    const results = behind("seccomp", role);
    assert.deepEqual(those(results, (result) => result === "ok"), possible(LEFT[role]));
    assert.deepEqual(those(results, (result) => result === "ENOSYS"), ["make_a_process_by_clone3"]);
    const others = those(results, (result) => !["ok", "ENOSYS", "EPERM"].includes(result));
    assert.deepEqual(others, []);
  });
}

/** What seccomp alone leaves to an app's process: its descriptors are its own, and landlock bounds its files. */
const LEFT_TO_APPS = [
  ...["open_to_read", "open_a_folder", "look_at_a_file", "map_a_file"],
  ...["read_from_a_file", "write_to_a_file", "read_from_a_pipe", "write_to_a_pipe"],
  ...["change_a_descriptor", "receive_by_a_socket_of_others", "send_by_a_connection"],
  ...["make_a_pair_of_sockets", "make_an_eventfd", "make_a_pipe"],
  // The preloaded seal.c refuses these before Deno's main.
  ...["execute_a_program", "add_a_filter"],
];
/** And where it was granted something. */
const LEFT_BY_GRANT = {
  none: [],
  write: [
    ...["open_to_write", "create_a_file", "change_a_mode", "remove_a_file", "rename_a_file"],
    "make_a_folder",
  ],
  // Landlock does not refuse it.
  watch: ["watch_a_file"],
  net: [
    // A raw one takes a capability.
    ...["make_a_socket", "make_a_raw_socket", "make_a_netlink_socket", "connect_by_tcp"],
    ...["listen_by_tcp", "accept_a_connection", "connect_a_socket_of_others"],
    ...["send_by_a_socket_of_others", "send_by_its_own_socket"],
  ],
};

for (const [grant, left] of Object.entries(LEFT_BY_GRANT)) {
  Deno.test(`seccomp alone leaves an app's process these, and nothing else (granted: ${grant})`, () => {
    const grants = grant === "none" ? 0 : GRANTS[grant as keyof typeof GRANTS];
    const results = behind("seccomp", "app", grants);
    assert.deepEqual(
      those(results, (result) => result === "ok"),
      possible([...LEFT_TO_APPS, ...left]),
    );
    assert.deepEqual(
      those(results, (result) => result === "ENOSYS"),
      possible(["make_a_process_by_clone3", "make_an_io_uring", "open_by_openat2"]),
    );
    const known = ["ok", "ENOSYS", "EPERM", "EACCES"];
    // Its socket is none: that failed before.
    const others = those(results, (result) => !known.includes(result));
    assert.deepEqual(others, grant === "net" ? ["connect_to_a_local_socket"] : []);
  });
}

Deno.test({
  name: "landlock alone refuses every file, TCP, and other processes' memory",
  ignore: landlockVersion < 1,
  fn() {
    const results = behind("landlock");
    assert.deepEqual(
      those(results, (result) => result !== "ok"),
      possible([
        ...["open_to_read", "open_to_write", "open_a_folder", "open_by_openat2", "create_a_file"],
        ...["remove_a_file", "rename_a_file", "link_a_file", "make_a_folder", "make_a_named_pipe"],
        ...["execute_a_program", "mount_a_file_system"],
        ...["trace_another", "read_memory_of_another", "write_memory_of_another"],
        "take_a_descriptor_of_another",
        ...(landlockVersion >= 3 ? ["truncate_a_file"] : []),
        ...(landlockVersion >= 4 ? ["connect_by_tcp", "listen_by_tcp"] : []),
      ]),
    );
  },
});

Deno.test("the capabilities that are gone alone keep root from what takes one", () => {
  assert.deepEqual(
    those(behind("capabilities"), (result) => result !== "ok"),
    possible([
      ...["change_root", "mount_a_file_system", "make_a_raw_socket", "type_into_a_terminal"],
      ...["trace_another", "read_memory_of_another", "write_memory_of_another"],
      ...["take_a_descriptor_of_another", "leave_its_namespaces", "enter_a_namespace"],
      ...[
        "make_a_bpf_map",
        "count_performance",
        "change_the_user",
        "name_the_host",
        "add_a_filter",
      ],
    ]),
  );
});
