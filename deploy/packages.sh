# Sourced by deploy/quickstart, tests/run and .ci/run (bash): Debian packages and the build.
# Every failure is one sentence on standard error and exit status 1.

BUILD_PACKAGES="gcc libc6-dev meson ninja-build pkgconf libmicrohttpd-dev libjansson-dev \
liburing-dev libyaml-dev libpcre2-dev libutf8proc-dev libsystemd-dev"

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# The packages among "$@" that dpkg does not call installed.
packages_missing() {
    local have
    have=" $(dpkg-query -W -f='${db:Status-Status}=${Package} ' "$@" 2>/dev/null || true)"
    local p
    for p in "$@"; do
        case "$have" in *" installed=$p "*) ;; *) printf '%s ' "$p" ;; esac
    done
}

# How to become root: nothing, sudo, or no way.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        return 126
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# Install what is missing of "$@"; says nothing when all is there.
packages_install() {
    if ! command -v dpkg-query >/dev/null; then
        local tool
        for tool in cc meson ninja pkg-config; do
            command -v "$tool" >/dev/null ||
                die "$tool is missing and this is not Debian; install what matches these:" "$@"
        done
        return 0
    fi
    local missing log rc=0
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    echo "installing packages: $missing"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null ||
            die "these packages are missing and there is no sudo to install them with: $missing"
        [ -t 0 ] || sudo -n true 2>/dev/null ||
            die "sudo wants a password and there is no terminal; missing packages: $missing"
    fi
    log=$(mktemp)
    {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
                install -q -y --no-install-recommends $missing
    } >"$log" 2>&1 || rc=$?
    if [ $rc != 0 ]; then
        local why
        why=$(grep -m1 '^E: ' "$log" || tail -n1 "$log")
        rm -f "$log"
        die "the packages could not be installed ($why): $missing"
    fi
    rm -f "$log"
}

# build_dir DIR [meson options]: configure once, keep afterwards. CC is honoured.
build_setup() {
    local dir=$1
    shift
    [ -f "$dir/build.ninja" ] && return 0
    command -v "${CC:-cc}" >/dev/null || die "there is no C compiler (${CC:-cc}); install gcc"
    local log
    mkdir -p "$dir"
    log=$(meson setup "$dir" "$@" 2>&1) || {
        printf '%s\n' "$log" >"$dir/setup.log"
        die "the build could not be configured: $(grep -m1 'ERROR' <<<"$log" || tail -n1 <<<"$log")"
    }
}

# build_make DIR [targets]: ninja; a terminal sees its progress, others only errors.
build_make() {
    local dir=$1
    shift
    if [ -t 1 ]; then
        ! ninja -C "$dir" -n "$@" | grep -q 'no work to do' || return 0
        ninja -C "$dir" --quiet "$@" || die "the build failed"
        return 0
    fi
    ninja -C "$dir" "$@" >"$dir/build.log" 2>&1 || {
        grep -E '(error|warning):|undefined reference|FAILED' "$dir/build.log" | head -n 20 >&2
        die "the build failed; all of its output is in $dir/build.log"
    }
}
