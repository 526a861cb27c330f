#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The beginning of dist/tegula, the one-file executable that `deno task compile` makes if Deno's base
# binary for `deno compile` is not available. A tar archive follows this script: the stock deno, the program,
# its npm modules and its native libraries. It needs what every Debian has: sh, coreutils, tar and flock. The
# first start unpacks the archive into a private folder that is named after the archive's hash. Later starts
# only execute deno from there. scripts/compile.ts replaces the words between @,
# and puts limits.sh in.
#
# Environment variables that change what deno does are unset.
#
# The code in the folder runs with the caller's rights, so the folder must belong to the caller and be
# writable by nobody else. A rename puts it in place as a whole. A shared lock marks it as in use; the lock
# survives exec with its descriptor, and ends with the process. The start that unpacks a new version removes
# versions that are not in use.
set -eu
version=@VERSION@
archive_bytes=@BYTES@

# Exit.system of cli/command.ts: something is missing on the system.
fail() {
  echo "tegula: $*" >&2
  exit 7
}

# ours FOLDER [-L]: creates FOLDER if it is missing, and checks that it is the caller's and writable by nobody
# else. With -L it may be a link to such a folder.
ours() {
  mkdir -p -m 700 "$1" 2>/dev/null || :
  case "$(stat ${2-} -c %A -- "$1" 2>/dev/null)" in
    d????-??-*) [ -O "$1" ] && [ -w "$1" ] && [ -x "$1" ] ;;
    *) return 1 ;;
  esac
}

# Opens the version's folder as descriptor 9, which deno inherits, and locks it shared. Fails if the folder is
# missing, or was removed before it was locked.
hold() {
  [ -d "$place" ] && command exec 9<"$place" && flock -s 9 && [ "$place" -ef /proc/self/fd/9 ]
}

# Puts the version's folder in place and holds it. A lock on the cache folder admits one at a time.
unpack() {
  exec 8<"$cache"
  flock 8
  if ! hold; then
    # What is not put in place is not left to take up room, however this ends.
    trap 'rm -rf "$cache/.new"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # Opened once: an upgrade may put another file there.
    exec 7<"$self"
    hash=$(tail -c "$archive_bytes" /proc/self/fd/7 | sha256sum)
    [ "${hash%% *}" = "$version" ] ||
      fail "$self is damaged, or was replaced just now: start it again, or install it anew"
    rm -rf "$cache/.new"
    mkdir -m 700 "$cache/.new"
    said=$(tail -c "$archive_bytes" /proc/self/fd/7 | tar -x -C "$cache/.new" 2>&1) ||
      fail "cannot unpack $self into $cache: $(echo "$said" | head -n 1); is there room?"
    exec 7<&-
    # What a crash leaves must not pass for whole: the data goes to the disk before the name.
    sync -f "$cache/.new"
    mv -T "$cache/.new" "$place" && hold ||
      fail "cannot lock $place; is /proc mounted? TEGULA_CACHE names a folder on another file system"
    trap - EXIT HUP INT TERM
    for old in "$cache"/*; do
      case "${old##*/}" in
        "$version" | *[!0-9a-f]*) ;;
        *) [ ${#old} -ne ${#place} ] || flock -n "$old" rm -rf "$old" || : ;;
      esac
    done
  fi
  exec 8<&-
}

@LIMITS@
case "$0" in
  /*) self=$0 ;;
  *) self=$PWD/$0 ;;
esac

# The first of the folders that docs/operating/install.md lists.
cache=${TEGULA_CACHE:-${CACHE_DIRECTORY-}}
if [ -n "$cache" ]; then
  ours "$cache" -L || {
    why="it must be a folder of yours, and writable by you alone"
    [ ! -O "$cache" ] || [ -w "$cache" ] || why="it is read-only to you"
    fail "cannot unpack into $cache: $why"
  }
else
  # Root does not trust HOME: under sudo it may be another's. /var/cache/tegula is the service's.
  cache=/var/cache/tegula-root
  [ "$(id -u)" -eq 0 ] || cache=${XDG_CACHE_HOME:-${HOME-}/.cache}/tegula
  ours "$cache" || fail "cannot unpack into $cache; name a folder of yours by TEGULA_CACHE"
fi
place=$cache/$version
hold || unpack
[ -x "$place/deno" ] && [ -e "$place/main.ts" ] || fail "cannot execute $place/deno: remove $place," \
  "or where its file system is mounted noexec, name a folder on another by TEGULA_CACHE"
for name in $(env | sed -nE 's/^((DENO|NODE|OTEL)_[A-Za-z0-9_]*)=.*/\1/p'); do unset "$name"; done
export TEGULA_EXECUTABLE="$self" DENO_DIR="$place/cache" DENO_NO_UPDATE_CHECK=1
exec "$place/deno" @FLAGS@ "$place/main.ts" "$@"
