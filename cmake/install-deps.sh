# Sourced by the scripts that build: . cmake/install-deps.sh; install_deps PACKAGE...
#
# Installs the Debian packages that are missing, without a question. Elsewhere it says what is
# needed and stops.

run_as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "Installing packages needs root: run this script as root, or install sudo." >&2
        exit 1
    fi
}

missing_deps() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' ||
            printf ' %s' "$package"
    done
}

install_deps() {
    if ! command -v apt-get >/dev/null 2>&1; then
        # not Debian: nothing can be installed by name, but what is needed may be there
        need_commands_and_libraries "$@"
        return
    fi
    missing=$(missing_deps "$@")
    [ -n "$missing" ] || return 0
    echo "Installing:$missing"
    run_as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086  # a list of names
    run_as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $missing >/dev/null
}

# The packages that cmake/aarch64-linux-gnu.cmake needs; amd64 machines only.
install_aarch64_deps() {
    if ! dpkg --print-foreign-architectures | grep -qx arm64; then
        run_as_root dpkg --add-architecture arm64
        run_as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    fi
    install_deps gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libopenblas-dev:arm64 \
        libjansson-dev:arm64 libcmocka-dev:arm64 libgomp1:arm64
}

need_commands_and_libraries() {
    lacking=
    for command in cc cmake make pkg-config; do
        command -v "$command" >/dev/null 2>&1 || lacking="$lacking $command"
    done
    for library in openblas jansson libpng libjpeg cairo cmocka; do
        pkg-config --exists "$library" 2>/dev/null || lacking="$lacking $library"
    done
    [ -n "$lacking" ] || return 0
    {
        echo "This is no Debian or Ubuntu system, so nothing was installed. Missing:$lacking"
        echo "Needed: a C11 compiler, CMake 3.25 or newer, make, pkg-config and the development"
        echo "files of OpenBLAS, jansson, libpng, libjpeg-turbo, cairo and cmocka, and a font."
        echo "On Debian these are the packages: $*"
    } >&2
    exit 1
}

BUILD_DEPS="build-essential cmake pkg-config libopenblas-dev libjansson-dev libpng-dev
libjpeg-dev libcairo2-dev fonts-dejavu-core libcmocka-dev"
