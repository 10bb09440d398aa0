#!/bin/sh
# Cross-compiles for 64-bit Arm and runs the tests of the kernels, the matrix product and the golden
# cases under QEMU, on NEON and without. Needs Debian's multiarch packages: see
# cmake/aarch64-linux-gnu.cmake.
set -eu
cd "$(dirname "$0")/.."
cmake -S . -B build/aarch64 --toolchain cmake/aarch64-linux-gnu.cmake -DCMAKE_BUILD_TYPE=Release \
    -DVTC_WERROR=ON -DVTC_BUILD_EXAMPLES=OFF -DVTC_BUILD_BENCHMARKS=OFF
cmake --build build/aarch64 -j "$(nproc)"
ctest --test-dir build/aarch64 --output-on-failure -j "$(nproc)" \
    -R '^(test_(kernels|kernels_dots|kernels_elementwise|kernels_softmax|activations|norms|conversions|gemm|packed|attention|rows|order|pool2d|apply|kv|tome|mlp)|conformance)(_without_neon)?$'
