#!/bin/sh
# The beginning of dist/tegula, the one-file executable that `deno task compile` makes where Deno's own
# base binary cannot be had: this script, and behind it a tar archive of the stock deno, the program,
# its npm modules and its native libraries. It takes what every Debian has: sh, coreutils, tar and
# flock. On its first start it unpacks the archive into a private folder named by the archive's hash;
# from then on it only executes deno from there. scripts/compile.ts fills in what stands between @.
#
# Of the environment nothing reaches deno that would change what it does.
#
# The folder is trusted with what the caller may do, so it must belong to the caller and be writable
# by nobody else. It appears whole, by a rename, and is in use while a shared lock on it is held: the
# lock goes with the descriptor through exec and ends with the process. Who unpacks a new version
# takes away those that nobody uses.
set -eu
version=@VERSION@
archive_bytes=@BYTES@

# As cli/errors.ts: the system lacks something.
fail() {
  echo "tegula: $*" >&2
  exit 7
}

# ours FOLDER [-L]: whether it is the caller's alone, having made it when it is not there. -L: a link
# to such a folder will do.
ours() {
  mkdir -p -m 700 "$1" 2>/dev/null || :
  case "$(stat ${2-} -c %A -- "$1" 2>/dev/null)" in
    d????-??-*) [ -O "$1" ] && [ -w "$1" ] && [ -x "$1" ] ;;
    *) return 1 ;;
  esac
}

# Opens the version's folder with a shared lock, as descriptor 9 that deno inherits. Fails when it is
# not there, or was removed between the two.
hold() {
  [ -d "$place" ] && command exec 9<"$place" && flock -s 9 && [ "$place" -ef /proc/self/fd/9 ]
}

# Puts the version's folder in place and holds it. One at a time: by a lock on the cache folder.
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

# Below these deno ends with a panic before it can say anything; what a run takes besides, run checks.
# Deno raises the soft limit of open files to the hard one, and root's processes are not limited. Where
# few processes are allowed nothing can be started to look, so this does not.
[ -r /proc/self/status ] || fail "/proc is missing; 'mount -t proc proc /proc' mounts it"
while read -r key uid _; do
  [ "$key" != Uid: ] || break
done </proc/self/status
while read -r one two three four five _; do
  case "$one $two $three" in
    "Max open files")
      [ "$five" = unlimited ] || [ "$five" -ge 32 ] ||
        fail "only $five open files are allowed, and it takes 32 to start: raise it with 'ulimit -n'" ;;
    "Max processes "*)
      [ "$uid" -eq 0 ] || [ "$three" = unlimited ] || [ "$three" -ge 16 ] ||
        fail "only $three processes are allowed, and it takes 16 to start: raise it with 'ulimit -u'" ;;
  esac
done </proc/self/limits

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
