#!/bin/sh
# check.sh PROGRAM EXPECTED: the program succeeds and prints the lines of EXPECTED in their order.
# Other lines may stand between them: the table of planners grows.
set -eu

printed=$("$1") # ends the script when the program fails
missing=$(printf '%s\n' "$printed" | diff "$2" - | grep '^<' || true)
if [ -n "$missing" ]; then
    printf '%s did not print\n%s\n' "$1" "$missing"
    exit 1
fi
