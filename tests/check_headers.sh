#!/bin/sh
# Each public header compiles alone and twice, as C99 and as C++17, with gcc and clang.
set -eu
cd "$(dirname "$0")/.."
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wundef -Werror -fsyntax-only -Iinclude"
for header in include/vtc/*.h; do
    name=vtc/$(basename "$header")
    for compiler in "gcc -x c -std=c99" "gcc -x c -std=c99 -fopenmp" "clang -x c -std=c99" \
        "g++ -x c++ -std=c++17" "g++ -x c++ -std=c++17 -fopenmp" "clang++ -x c++ -std=c++17"; do
        printf '#include <%s>\n#include <%s>\n' "$name" "$name" |
            $compiler $warnings - || { echo "$name fails with: $compiler" >&2; exit 1; }
    done
done
echo "$(ls include/vtc/*.h | wc -l) headers are clean"
