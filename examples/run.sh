#!/bin/sh
# Installs what is missing, builds, and compares every compressor that needs only features on the
# photographs in examples/photos. Usage: sh examples/run.sh [OUTPUT_FOLDER]
set -eu
out=${1:-}
case $out in
"") ;;
/*) ;;
*) out=$PWD/$out ;;
esac
cd "$(dirname "$0")/.."
: "${out:=$PWD/out/compare}"

. cmake/install-deps.sh
# shellcheck disable=SC2086  # a list of names
install_deps $BUILD_DEPS

echo "Building (log: build/log.txt)"
mkdir -p build
{ cmake --preset release && cmake --build --preset release -j "$(nproc)"; } >build/log.txt 2>&1 || {
    cat build/log.txt >&2
    exit 1
}

build/release/examples/vtc compare examples/photos/*.jpg --keep 128 --out "$out"
