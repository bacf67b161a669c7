#!/usr/bin/env bash
# Makes sure that what the demo, the tests and the build need is there: PostgreSQL's programs (initdb, postgres,
# pg_ctl, psql, pgbench), a C compiler, make and cargo. Installs what is missing with apt where it may (root or a sudo that
# asks for nothing); otherwise names exactly what is missing and how to get it, and fails.
#
# Starts no PostgreSQL and makes no cluster: the package's own `main` cluster is never wanted here. Quick and
# silent when nothing is missing. PG_BIN names a folder with PostgreSQL's programs to be used instead of any other.
set -euo pipefail

readonly PROGRAMS=(initdb postgres pg_ctl psql pgbench)
readonly CLUSTER_CONF=/etc/postgresql-common/createcluster.conf

# The folders in which the proxy's own search looks, in its order (src/demo/cluster.rs).
postgres_folders() {
    if [ -n "${PG_BIN:-}" ]; then
        printf '%s\n' "$PG_BIN"
        return
    fi
    pg_config --bindir 2>/dev/null || true
    find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -rV || true
    tr ':' '\n' <<<"$PATH"
}

has_program() {
    local folder
    while IFS= read -r folder; do
        [ -n "$folder" ] && [ -x "$folder/$1" ] && return 0
    done <<<"$FOLDERS"
    return 1
}

# What is missing, one name a line.
missing() {
    local program
    FOLDERS=$(postgres_folders)
    for program in "${PROGRAMS[@]}"; do
        has_program "$program" || printf '%s\n' "$program"
    done
    command -v cc >/dev/null || printf 'cc\n'
    command -v make >/dev/null || printf 'make\n'
}

# The command in front of those that need root; fails if there is none.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# Without this file the server package would make a `main` cluster and start it. One that is there already is
# somebody's decision and stays as it is.
forbid_main_cluster() {
    [ -e "$CLUSTER_CONF" ] && return 0
    as_root mkdir -p "$(dirname "$CLUSTER_CONF")"
    printf '%s\n' 'create_main_cluster = false' | as_root tee "$CLUSTER_CONF" >/dev/null
}

apt_install() {
    # A configuration file that is there is kept without a question.
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

# One test moves the wall clock, and is skipped without this library; instructions are counted with valgrind, or not at all. Where
# everything is to run they are installed; that they cannot be is no failure.
want_the_rest() {
    local wanted=()
    [ -n "${CI:-}" ] || return 0
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || wanted+=(faketime)
    command -v valgrind >/dev/null || wanted+=(valgrind)
    [ "${#wanted[@]}" -gt 0 ] && may_install || return 0
    apt_install "${wanted[@]}" >/dev/null 2>&1 && return 0
    # The lists may be missing or old.
    as_root apt-get update -q -o DPkg::Lock::Timeout=120 </dev/null >/dev/null 2>&1 || true
    apt_install "${wanted[@]}" >/dev/null 2>&1 || echo "cannot be installed, so something will be skipped: ${wanted[*]}"
}

main() {
    local absent packages=()
    if ! command -v cargo >/dev/null; then
        echo "missing: cargo. Install a Rust toolchain first: https://rustup.rs" >&2
        exit 1
    fi
    want_the_rest
    absent=$(missing)
    [ -z "$absent" ] && exit 0

    grep -qx cc <<<"$absent" && packages+=(gcc libc6-dev)
    grep -qx make <<<"$absent" && packages+=(make)
    grep -qvx -e cc -e make <<<"$absent" && packages+=(postgresql)
    if [ -n "${PG_BIN:-}" ] && grep -qvx -e cc -e make <<<"$absent"; then
        echo "missing in PG_BIN=$PG_BIN: ${absent//$'\n'/ }" >&2
        exit 1
    fi
    if ! may_install; then
        echo "missing: ${absent//$'\n'/ }" >&2
        echo "They cannot be installed from here (that takes apt-get and root, or a sudo that asks for nothing). Run" >&2
        echo "    sudo apt-get install --no-install-recommends ${packages[*]}" >&2
        echo "or set PG_BIN to the folder with PostgreSQL's programs, and try again." >&2
        exit 1
    fi

    echo "installing with apt: ${packages[*]} (for: ${absent//$'\n'/ })"
    forbid_main_cluster
    # The lists may be there and good; fetching them is slow, so it is the second try.
    if ! apt_install "${packages[@]}" >/dev/null 2>&1; then
        as_root apt-get update -q -o DPkg::Lock::Timeout=120 </dev/null
        apt_install "${packages[@]}"
    fi

    absent=$(missing)
    if [ -n "$absent" ]; then
        echo "still missing after the installation of ${packages[*]}: ${absent//$'\n'/ }" >&2
        exit 1
    fi
}

main "$@"
