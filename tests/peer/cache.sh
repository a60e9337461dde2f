# Sourced by the build scripts of the Go programs under tests/: builds a program once and keeps it outside the
# tree, so that the next run starts at once.
#
#   cached NAME INPUT... -- COMMAND...
#
# prints ${XDG_CACHE_HOME:-$HOME/.cache}/mintmark/NAME-<hash of the inputs>. When that directory is missing it runs
# `COMMAND... DIRECTORY`, which must leave its binaries in DIRECTORY; the directory takes its final name only when
# all of them are there. Two callers at once build once.

cached() {
  local name=$1 inputs=() key dir fresh
  shift
  while [ "$1" != -- ]; do
    inputs+=("$1")
    shift
  done
  shift
  key=$(sha256sum -- "${inputs[@]}" | cut -d' ' -f1 | sha256sum | cut -c1-16)
  dir=${XDG_CACHE_HOME:-$HOME/.cache}/mintmark/$name-$key
  if [ ! -d "$dir" ]; then
    mkdir -p "${dir%/*}"
    (
      flock 9
      [ ! -d "$dir" ] || exit 0
      fresh=$(mktemp -d "$dir.XXXXXX")
      "$@" "$fresh" >&2 || {
        rm -rf "$fresh"
        exit 1
      }
      chmod 755 "$fresh"
      mv -T "$fresh" "$dir"
    ) 9>"${dir%/*}/$name.lock" || return 1
  fi
  printf '%s\n' "$dir"
}

# The Go tool must be there; the module's own go.mod says which version it fetches.
need_go() {
  command -v go >/dev/null || {
    echo "go is needed to build $1 and is not on PATH: install Go 1.26 or newer (https://go.dev/dl)" >&2
    exit 1
  }
}
