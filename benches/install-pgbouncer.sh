#!/usr/bin/env bash
# Makes sure that Debian's PgBouncer is there to be compared with. Installs it with apt where that may be (root or a
# sudo that asks for nothing); otherwise says so and fails, and the comparison goes on without it.
#
# The package's service is neither started now nor at the next boot. A PgBouncer that is there already is left as it is.
set -euo pipefail

# What a package's scripts ask before they start a service: 101 means no.
readonly POLICY=/usr/sbin/policy-rc.d

has_pgbouncer() {
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]
}

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

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=60 pgbouncer </dev/null
}

allow_services() {
    as_root rm -f "$POLICY"
}

# A policy that is there is somebody's decision and stays; ours goes when we do.
forbid_services() {
    [ -e "$POLICY" ] && return 0
    trap allow_services EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
}

main() {
    has_pgbouncer && exit 0
    if ! may_install; then
        echo "PgBouncer is missing and cannot be installed from here. To have its column: sudo apt-get install pgbouncer" >&2
        exit 1
    fi
    echo "installing with apt: pgbouncer (its service stays off)" >&2
    forbid_services
    # The lists may be there and good; fetching them is slow, so it is the second try.
    if ! apt_install >/dev/null 2>&1; then
        as_root apt-get update -q -o DPkg::Lock::Timeout=60 </dev/null >&2
        apt_install >&2
    fi
    # Installed by us, so nobody has asked for it at boot; and should a policy have let it start, it stops.
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable --now pgbouncer >/dev/null 2>&1 || true
    else
        as_root update-rc.d pgbouncer disable >/dev/null 2>&1 || true
    fi
    has_pgbouncer
}

main "$@"
