#!/bin/sh
# README's program compiles, and its table of methods is what the tool prints.
# Usage: check_readme.sh BUILD_FOLDER
set -eu
cd "$(dirname "$0")/.."
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sed -n '/^```c$/,/^```$/p' README.md | grep -v '^```' >"$work/readme.c"
cc -std=c11 -Wall -Wextra -Werror -Iinclude -c "$work/readme.c" -o "$work/readme.o"

"$build/examples/vtc" methods --markdown >"$work/methods"
awk 'index($0, "| method |") == 1, /^$/' README.md | grep '^|' >"$work/in_readme"
diff "$work/in_readme" "$work/methods" || {
    echo "README's table of methods is not what 'vtc methods --markdown' prints" >&2
    exit 1
}
echo "README agrees with the program"
