#!/bin/sh
# Installs into a prefix and builds consumers against it: by CMake and by pkg-config, in C and C++,
# shared and static.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake -S . -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$work/prefix" \
    -DVTC_BUILD_TESTS=OFF -DVTC_BUILD_EXAMPLES=OFF -DVTC_BUILD_BENCHMARKS=OFF >/dev/null
cmake --build "$work/build" -j "$(nproc)" >/dev/null
cmake --install "$work/build" >/dev/null

cmake -S tests/consumer -B "$work/consumer" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/consumer" >/dev/null
for program in consumer_c consumer_cpp consumer_static; do
    "$work/consumer/$program"
done

pc=$(dirname "$(find "$work/prefix" -name vtc.pc)")
library_dir=$(dirname "$pc")
PKG_CONFIG_PATH=$pc${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
# shellcheck disable=SC2046  # flags are words
cc tests/consumer/consumer.c -o "$work/pc_c" $(pkg-config --cflags --libs vtc-io)
# shellcheck disable=SC2046
c++ -x c++ tests/consumer/consumer.c -x none -o "$work/pc_cpp" $(pkg-config --cflags --libs vtc-io)
LD_LIBRARY_PATH=$library_dir "$work/pc_c"
LD_LIBRARY_PATH=$library_dir "$work/pc_cpp"
echo "consumers work"
