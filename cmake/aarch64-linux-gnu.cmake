# Builds for 64-bit Arm on another machine, and runs the tests there under QEMU's user mode:
#
#   cmake -B build/aarch64 --toolchain cmake/aarch64-linux-gnu.cmake
#
# Debian packages (arm64 added by `dpkg --add-architecture arm64`; nothing of the own architecture
# is replaced): gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libopenblas-dev:arm64
# libjansson-dev:arm64 libcmocka-dev:arm64 libgomp1:arm64

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

# pkg-config must not answer for the machine that builds
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)

# The compiler's own libc and the multiarch libraries lie in two trees; the latter has a loader.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /)
