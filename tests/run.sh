#!/bin/sh
# Installs what is missing, builds, and runs all tests. Usage: sh tests/run.sh
set -eu
cd "$(dirname "$0")/.."

. cmake/install-deps.sh
# shellcheck disable=SC2086  # a list of names
install_deps $BUILD_DEPS

cmake --preset release
cmake --build --preset release -j "$(nproc)"
ctest --preset release -j "$(nproc)"
