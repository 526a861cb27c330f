# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Ends with status 7 (Exit.system of cli/command.ts) where deno would panic at its start, before it can print
# anything. Part of packaging/launcher.sh, and sourced by scripts/setup. `tegula run` checks what it needs beyond
# this. Deno raises the soft limit of open files to the hard limit, and root's processes are not limited. This
# starts no other program, since few processes may be allowed.
lacks() {
  echo "tegula: $*" >&2
  exit 7
}
[ -r /proc/self/status ] || lacks "/proc is missing; 'mount -t proc proc /proc' mounts it"
while read -r key uid _; do
  [ "$key" != Uid: ] || break
done </proc/self/status
while read -r one two three four five _; do
  case "$one $two $three" in
    "Max open files")
      [ "$five" = unlimited ] || [ "$five" -ge 32 ] ||
        lacks "only $five open files are allowed, and it takes 32 to start: raise it with 'ulimit -n'" ;;
    "Max processes "*)
      [ "$uid" -eq 0 ] || [ "$three" = unlimited ] || [ "$three" -ge 16 ] ||
        lacks "only $three processes are allowed, and it takes 16 to start: raise it with 'ulimit -u'" ;;
  esac
done </proc/self/limits
