# What a build of weir needs beyond this clone: cargo, a C compiler, make, perl and cmake (C libraries behind
# dependencies are built with them: librdkafka with make, its OpenSSL with perl). Sourced by ./demo, tests/run, fuzz/run and .ci/run; plain POSIX sh, nothing runs until called.
#
# require_toolchain     returns 0 when a build can start. What is missing is installed with apt-get where that
#                       needs nobody's leave (running as root on Debian or Ubuntu); otherwise one line on stderr says
#                       what to install, and the caller gets 1.
# require_packages CMD=PACKAGE…   the same for single commands, e.g. `require_packages nghttp=nghttp2-client`.

require_toolchain() {
    if ! command -v cargo >/dev/null 2>&1; then
        echo "weir needs Rust $(rust_version_min) or newer: install it from https://rustup.rs" >&2
        return 1
    fi
    if ! rust_is_new_enough; then
        echo "weir needs Rust $(rust_version_min) or newer and this is $(rustc --version): run 'rustup update stable'" >&2
        return 1
    fi
    require_packages cc=gcc make=make perl=perl cmake=cmake
}

require_packages() {
    missing=
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
    done
    [ -n "$missing" ] || return 0
    # A C compiler without the C library's headers builds nothing.
    case "$missing" in *gcc*) missing="$missing libc6-dev" ;; esac
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing$missing with apt-get" >&2
        # shellcheck disable=SC2086  # a list of package names
        if apt_quietly install -y --no-install-recommends $missing; then
            return 0
        fi
        # A fresh image has no package lists yet.
        # shellcheck disable=SC2086
        apt_quietly update && apt_quietly install -y --no-install-recommends $missing && return 0
    fi
    echo "missing:$missing; on Debian or Ubuntu: sudo apt-get install -y$missing (elsewhere the packages of the same commands)" >&2
    return 1
}

apt_quietly() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null 2>&1
}

# The oldest compiler the workspace allows, from the manifest beside which the caller stands.
rust_version_min() {
    sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml
}

rust_is_new_enough() {
    have=$(rustc --version | sed 's/^rustc \([0-9]*\.[0-9]*\).*/\1/')
    need=$(rust_version_min | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
    [ "${have%%.*}" -gt "${need%%.*}" ] ||
        { [ "${have%%.*}" -eq "${need%%.*}" ] && [ "${have#*.}" -ge "${need#*.}" ]; }
}
