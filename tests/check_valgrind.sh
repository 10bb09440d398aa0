#!/bin/sh
# valgrind finds nothing in the tests that touch raw memory: strides, bytes, files, row tails.
# Usage: check_valgrind.sh BUILD_FOLDER
set -eu
tests=$1/tests
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# valgrind emulates no AVX-512: the library and OpenBLAS must not use it.
export VTC_DISABLE_CPU=avx512 OPENBLAS_CORETYPE=Haswell OPENBLAS_NUM_THREADS=1

for name in test_anyres test_apply test_compose test_concat test_conv test_conversions test_file \
    test_gather test_kernels test_kernels_dots test_kernels_softmax test_kv test_merge_order test_npy test_pieces test_pixel_shuffle \
    test_pool2d test_positions test_rows test_safetensors test_safetensors_write test_tensor \
    test_tome test_transpose test_video_newline test_window; do
    valgrind --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite \
        "$tests/$name" >"$log" 2>&1 || {
        cat "$log" >&2
        echo "$name fails under valgrind" >&2
        exit 1
    }
done
echo "valgrind finds nothing"
