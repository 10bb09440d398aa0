#!/bin/sh
# Shared libraries export only vtc_ names, and static ones define no global outside vtc_ and vtci_.
# Usage: check_symbols.sh BUILD_FOLDER
set -eu
build=$1

only() { # LIBRARY PATTERN SYMBOLS
    strange=$(printf '%s\n' "$3" | grep -vE "$2" || true)
    [ -z "$strange" ] || { echo "$1 has globals it should not have:" "$strange" >&2; exit 1; }
    [ -n "$3" ] || { echo "$1 has no globals at all" >&2; exit 1; }
}

for library in vtc vtc-io; do
    only "lib$library.so" '^vtc_' "$(nm -D --defined-only "$build/lib$library.so" |
        awk 'NF == 3 { print $3 }')"
    only "lib$library.a" '^vtci?_' "$(nm -g --defined-only "$build/lib$library.a" |
        awk 'NF == 3 { print $3 }')"
done
# libvtc never allocates, starts a thread or prints: its objects do not refer to what would.
foreign=$(nm -u "$build/libvtc.a" |
    grep -E ' (malloc|calloc|realloc|free|aligned_alloc|posix_memalign|mmap|pthread_.*|f?printf|getenv|abort|exit)$' || true)
[ -z "$foreign" ] || { echo "libvtc.a refers to" "$foreign" >&2; exit 1; }
echo "symbols are clean"
