#!/bin/sh
# Every C file is as clang-format leaves it.
set -eu
cd "$(dirname "$0")/.."
find include src tests benchmarks examples -name '*.[ch]' -exec clang-format --dry-run -Werror {} +
