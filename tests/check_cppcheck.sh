#!/bin/sh
# cppcheck finds nothing in any C file. What it gets wrong is suppressed where it stands, with the
# reason behind a semicolon: /* cppcheck-suppress ID ; why */
set -eu
cd "$(dirname "$0")/.."
cppcheck --quiet --error-exitcode=1 -j "$(nproc)" --std=c11 --language=c \
    --enable=warning,performance,portability --inline-suppr --suppress=missingIncludeSystem \
    --template='{file}:{line}: {severity}: {message} [{id}]' \
    -Iinclude -Itests -Iexamples src tests benchmarks examples
echo "cppcheck finds nothing"
