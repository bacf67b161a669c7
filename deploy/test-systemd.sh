#!/usr/bin/env bash
# The package under a real systemd, which systemd-nspawn boots in a tree that is thrown away: start, reload, a process that
# hangs (the watchdog), restarts and an upgrade while clients connect without a pause, removal.
# Run as root: `make test-systemd`. DEB=FILE tests a package that is there already. Exit code 3: it cannot be tried here.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }
cannot() { echo "cannot be tried here: $*" >&2; exit 3; }
die() { echo "FAILED: $*" >&2; inside journalctl -u pglull --no-pager -n 20 >&2 || true; exit 1; }

[ "$(id -u)" = 0 ] || cannot "it needs root"
for tool in mmdebstrap systemd-nspawn nsenter; do
    command -v "$tool" >/dev/null || cannot "there is no $tool (apt-get install mmdebstrap systemd-container)"
done
if [ -z "${DEB:-}" ]; then
    cargo deb --version >/dev/null 2>&1 || cannot "there is no cargo-deb (cargo install --locked cargo-deb)"
    DEB=$(./deploy/build-deb.sh | tail -1)
fi

work=$(mktemp -d /var/tmp/pglull-systemd.XXXXXX)
tree=$work/tree
nspawn='' leader='' first='' second=''
inside() { nsenter -t "$leader" -m -u -i -p -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }
finish() {
    # Whoever is inside when it powers off is stopped there, and never ends.
    [ -z "$first" ] || wait "$first" "$second" || true
    # Its own way to say: power off.
    [ -z "$nspawn" ] || kill -TERM "$nspawn" 2>/dev/null || true
    [ -z "$nspawn" ] || wait "$nspawn" || true
    rm -rf --one-file-system "$work"
}
trap finish EXIT

step "a Debian 12 with systemd"
# shellcheck disable=SC2016  # the hook's own $1
mmdebstrap --quiet --variant=minbase --include=adduser,procps,needrestart,systemd,systemd-sysv,dbus,postgresql-15,postgresql-client-15 \
    --setup-hook='mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
    bookworm "$tree" >"$work/mmdebstrap.log" 2>&1 || { tail -5 "$work/mmdebstrap.log"; cannot "mmdebstrap failed"; }
cp "$DEB" "$tree/opt/pglull.deb"
chroot "$tree" dpkg -i /opt/pglull.deb >/dev/null
systemd-nspawn --quiet --register=no --keep-unit --directory="$tree" --boot >"$work/boot.log" 2>&1 &
nspawn=$!
for _ in $(seq 300); do
    leader=$(pgrep -P "$nspawn" | head -1) || true
    [ -n "$leader" ] && inside systemctl is-active --quiet multi-user.target 2>/dev/null && break
    kill -0 "$nspawn" 2>/dev/null || { tail -5 "$work/boot.log"; nspawn=; cannot "systemd does not boot in a container"; }
    sleep 0.2
done
inside systemctl is-active --quiet multi-user.target || cannot "systemd does not boot in a container"

# The network is this machine's: ports of our own.
pg_port=$((21700 + $$ % 4000)); port=$((pg_port + 4000)); metrics=$((pg_port + 8000))
inside sh -c "pg_createcluster -p $pg_port 15 try >/dev/null && systemctl start postgresql@15-try
    echo 'host all all 127.0.0.1/32 trust' >/etc/postgresql/15/try/pg_hba.conf; echo 'local all all peer' >>/etc/postgresql/15/try/pg_hba.conf
    systemctl reload postgresql@15-try
    runuser -u postgres -- psql -p $pg_port -qc 'CREATE ROLE app LOGIN' -c 'CREATE DATABASE shop OWNER app'
    sed -i 's/^port = 5432/port = $pg_port/; s/^listen_port = .*/listen_port = $port\nmetrics_addr = \"127.0.0.1:$metrics\"/' /etc/pglull/pglull.toml
    echo '\"app\" \"secret\"' >>/etc/pglull/users.txt
    mkdir -p /etc/systemd/system/pglull.socket.d
    printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:$port\nListenStream=/run/pglull/.s.PGSQL.$port\n' >/etc/systemd/system/pglull.socket.d/port.conf
    systemctl daemon-reload"
app() { inside env PGPASSWORD=secret PGCONNECT_TIMEOUT=15 psql -XAtq -h 127.0.0.1 -p "$port" -U app -v ON_ERROR_STOP=1 -c "$1" shop; }
property() { inside systemctl show -P "$1" pglull.service; }

step "start, reload"
inside systemctl enable --now --quiet pglull.service || die "it does not start"
[ "$(app 'SELECT 41 + 1')" = 42 ] || die "no answer"
[ "$(property StatusText)" = "serving clients" ] || die "status: $(property StatusText)"
inside pglull admin 'SHOW POOLS' >/dev/null || die "the console is not where it is looked for"
inside systemctl reload pglull || die "the reload failed"
inside sh -c 'echo "colour = 1" >>/etc/pglull/pglull.toml; systemctl reload pglull; sleep 1; sed -i "/^colour/d" /etc/pglull/pglull.toml'
[ "$(app 'SELECT 41 + 1')" = 42 ] || die "a file with a mistake has changed something"
inside systemd-analyze security --no-pager pglull.service | tail -1

step "a process that hangs is started anew"
pid=$(property MainPID)
inside kill -STOP "$pid"
for _ in $(seq 120); do [ "$(property MainPID)" != "$pid" ] && [ "$(property ActiveState)" = active ] && break; sleep 0.5; done
[ "$(property NRestarts)" = 1 ] || die "the watchdog does not bite"
[ "$(app 'SELECT 41 + 1')" = 42 ] || die "no answer after the watchdog"

step "a mistake keeps it down, a port in use is tried until it is free"
inside sh -c 'systemctl stop pglull.service; echo "colour = 1" >>/etc/pglull/pglull.toml'
! inside systemctl start pglull.service 2>/dev/null || die "it starts with a mistake"
sleep 3
[ "$(property ActiveState) $(property NRestarts)" = "failed 0" ] || die "a mistake is tried again: $(property ActiveState) $(property NRestarts)"
inside journalctl -u pglull --no-pager | grep colour >/dev/null || die "the mistake is not in the journal"
inside sed -i '/^colour/d' /etc/pglull/pglull.toml
inside systemd-run --quiet --unit=taken systemd-socket-activate -l "127.0.0.1:$port" /usr/bin/true
inside systemctl start --no-block pglull.service
for _ in $(seq 60); do [ "$(property NRestarts)" -ge 7 ] && break; sleep 0.5; done
[ "$(property NRestarts)" -ge 7 ] || die "it gives up: $(property Result)"
inside systemctl stop taken
for _ in $(seq 20); do [ "$(property ActiveState)" = active ] && break; sleep 0.5; done
[ "$(app 'SELECT 41 + 1')" = 42 ] || die "no answer once the port is free"

step "five restarts while clients connect without a pause"
inside sh -c 'systemctl stop pglull.service && systemctl enable --now --quiet pglull.socket && systemctl start pglull.service'
hammer() {
    local end=$((SECONDS + 20)) ok=0 said
    while [ "$SECONDS" -lt "$end" ]; do
        # What one client is told is one line.
        if said=$(app 'SELECT 1' 2>&1 >/dev/null); then ok=$((ok + 1)); else echo "$said" | paste -sd' ' >>"$work/errors"; fi
    done
    echo "$ok" >>"$work/served"
}
hammer & first=$!
hammer & second=$!
: >"$work/errors"
for _ in 1 2 3 4 5; do sleep 3; inside systemctl restart pglull.service; done
wait "$first" "$second"
refused=$(grep -cv 'pooler is shutting down' "$work/errors" || true)
told=$(grep -c 'pooler is shutting down' "$work/errors" || true)
echo "$(paste -sd+ "$work/served" | bc 2>/dev/null || paste -sd' ' "$work/served") served, $refused refused or broken, $told told 'pooler is shutting down'"
[ "$refused" = 0 ] || { sort "$work/errors" | uniq -c; die "connections were refused or broken"; }

step "an upgrade of the program while clients connect without a pause"
mkdir "$work/next"
dpkg-deb -R "$DEB" "$work/next"
sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/next" "$tree/opt/next.deb" >/dev/null
: >"$work/errors"
pid=$(property MainPID) restarts=$(property NRestarts)
hammer & first=$!
hammer & second=$!
inside dpkg -i /opt/next.deb >/dev/null
[ "$(property MainPID)" = "$pid" ] || die "the package's upgrade has ended the process"
# What Ubuntu runs after each installation: it restarts services whose program has been replaced.
inside needrestart -r a -v >"$work/needrestart" 2>&1 || true
grep -q pglull "$work/needrestart" || { cat "$work/needrestart"; die "needrestart has not looked at it"; }
[ "$(property MainPID)" = "$pid" ] || die "needrestart has ended the process"
inside pglull upgrade || die "the upgrade of what runs failed"
wait "$first" "$second"
[ ! -s "$work/errors" ] || { sort "$work/errors" | uniq -c; die "somebody noticed the upgrade"; }
[ "$(property MainPID)" != "$pid" ] || die "systemd does not know the new process"
# Longer than WatchdogSec: the new process is the one that shows life.
sleep 35
[ "$(property ActiveState) $(property NRestarts)" = "active $restarts" ] || die "the new process does not live: $(property Result)"
inside systemctl reload pglull || die "the reload after the upgrade failed"
[ "$(app 'SELECT 41 + 1')" = 42 ] || die "no answer after the upgrade"

step "stop, remove"
inside systemctl stop pglull.socket pglull.service
[ "$(property MainPID)" = 0 ] || die "it does not end"
# In a container with control groups of version 1, systemd waits for its own children alone, and kills at once what came by an
# upgrade. Elsewhere it waits for the whole group.
[ "$(property Result)" = success ] || [ -d /sys/fs/cgroup/systemd ] || die "it ended with $(property Result)"
inside dpkg -P pglull >/dev/null 2>&1
[ ! -e "$tree/etc/systemd/system/multi-user.target.wants/pglull.service" ] || die "it is still enabled"
echo ok
