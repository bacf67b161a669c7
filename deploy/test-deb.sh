#!/usr/bin/env bash
# Builds the Debian package and lives with it in a clean Debian 12 tree: install, start by the unit's own command, connect,
# pause, resume, a window, upgrade (nobody is cut), remove, purge. Run as root: `make test-deb`.
#
# The tree is made by mmdebstrap and thrown away; nothing on this machine is installed or changed. systemd need not run.
# DEB=FILE tests a package that is there already; PROFILE=dev builds it faster. Exit code 3: it cannot be tried here.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$PWD
step() { printf '\n== %s\n' "$*"; }
cannot() { echo "cannot be tried here: $*" >&2; exit 3; }
die() { echo "FAILED: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || cannot "it needs root for a chroot"
for tool in mmdebstrap dpkg-deb; do
    command -v "$tool" >/dev/null || cannot "there is no $tool (apt-get install mmdebstrap)"
done

if [ -z "${DEB:-}" ]; then
    cargo deb --version >/dev/null 2>&1 || cannot "there is no cargo-deb (cargo install --locked cargo-deb)"
    step "cargo deb"
    DEB=$(./deploy/build-deb.sh | tail -1)
fi
[ -r "$DEB" ] || die "no package $DEB"
DEB=$(readlink -f "$DEB")

work=$(mktemp -d /var/tmp/pglull-deb.XXXXXX)
tree=$work/tree
pids=()
finish() {
    local pid
    for pid in "${pids[@]}"; do pkill -KILL -P "$pid" || true; kill -KILL "$pid" 2>/dev/null || true; done
    [ ! -e "$tree/pg/postmaster.pid" ] || in_tree runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_ctl -D /pg -m immediate stop >/dev/null || true
    umount "$tree/proc" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap finish EXIT
in_tree() { chroot "$tree" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
files() { (cd "$tree" && find . -xdev \( -path ./proc -o -path ./run -o -path ./pg -o -path ./tmp -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/dpkg \) -prune -o -print | LC_ALL=C sort); }

step "a clean Debian 12"
# shellcheck disable=SC2016  # the hook's own $1
mmdebstrap --quiet --variant=minbase --include=adduser,procps,systemd,postgresql-15,postgresql-client-15 \
    --setup-hook='mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
    bookworm "$tree" >"$work/mmdebstrap.log" 2>&1 || { tail -5 "$work/mmdebstrap.log"; cannot "mmdebstrap failed"; }
mount -t proc proc "$tree/proc"

# A port each, so that this can run beside others.
pg_port=$((21000 + $$ % 4000)); port=$((pg_port + 4000)); metrics=$((pg_port + 8000))
bin=/usr/lib/postgresql/15/bin
in_tree install -d -o postgres -g postgres /pg
in_tree runuser -u postgres -- $bin/initdb -D /pg -A trust >/dev/null
in_tree runuser -u postgres -- $bin/pg_ctl -D /pg -w -o "-p $pg_port -k /tmp -c fsync=off" -l /pg/log start >/dev/null
sql() { in_tree psql -XAtq -h 127.0.0.1 -p "$pg_port" -U postgres -v ON_ERROR_STOP=1 "$@"; }
sql -c "CREATE ROLE app LOGIN PASSWORD 'secret'" -c "CREATE DATABASE shop OWNER app"

step "install"
files >"$work/before"
cp "$DEB" "$tree/tmp/pglull.deb"
in_tree dpkg -i /tmp/pglull.deb
mode() { stat -c '%a %U:%G' "$tree$1" | sed "s/UNKNOWN/$(in_tree stat -c %G "$1")/g"; }
for want in "640 /etc/pglull/pglull.toml" "640 /etc/pglull/users.txt" "750 /etc/pglull" "700 /var/lib/pglull" "755 /usr/bin/pglull"; do
    [ "$(in_tree stat -c %a "${want#* }")" = "${want%% *}" ] || die "mode of ${want#* }: $(mode "${want#* }")"
done
[ "$(in_tree stat -c %U:%G /etc/pglull/users.txt)" = root:pglull ] || die "owner of users.txt"
[ "$(in_tree stat -c %U:%G /var/lib/pglull)" = pglull:pglull ] || die "owner of /var/lib/pglull"
[ ! -e "$tree/etc/systemd/system/multi-user.target.wants/pglull.service" ] || die "it is enabled without being asked"
for path in man/man1/pglull.1.gz bash-completion/completions/pglull pglull/grafana/pglull.json doc/pglull/docs/changes.md; do
    [ -s "$tree/usr/share/$path" ] || die "no /usr/share/$path"
done
in_tree pglull check /etc/pglull/pglull.toml

step "systemd-analyze"
said=$(in_tree systemd-analyze verify --man=no pglull.service pglull.socket 2>&1) || true
[ -z "$said" ] || die "systemd-analyze verify: $said"
score=$(in_tree systemd-analyze security --offline=true /usr/lib/systemd/system/pglull.service | sed -n 's/.*level for pglull.service: \([0-9.]*\).*/\1/p')
echo "exposure $score"
awk -v score="$score" 'BEGIN { exit !(score != "" && score <= 2.0) }' || die "exposure $score is over 2.0"

step "start by the unit's own command, as its user"
cat >"$tree/tmp/toml" <<TOML
[pglull]
listen_port = $port
metrics_addr = "127.0.0.1:$metrics"
unix_socket_dir = "/run/pglull"
auth_file = "users.txt"
admin_socket = "/run/pglull/admin.sock"
state_dir = "/var/lib/pglull"
shutdown_timeout = "20s"
[databases.shop]
host = "127.0.0.1"
port = $pg_port
TOML
# Written into what is there: owner and mode stay.
in_tree sh -c 'cat /tmp/toml >/etc/pglull/pglull.toml; echo "\"app\" \"secret\"" >>/etc/pglull/users.txt'
unit=$tree/usr/lib/systemd/system/pglull.service
entry() { sed -n "s/^$1=//p" "$unit"; }
start() {
    # What RuntimeDirectory= and StateDirectory= do.
    in_tree install -d -m "$(entry RuntimeDirectoryMode)" -o pglull -g pglull "/run/$(entry RuntimeDirectory)"
    in_tree sh -c "umask $(entry UMask); exec setpriv --reuid=pglull --regid=pglull --init-groups --no-new-privs $(entry ExecStart)" >>"$work/log" 2>&1 &
    pids+=($!)
    for _ in $(seq 100); do
        in_tree pglull probe --addr "127.0.0.1:$metrics" >/dev/null 2>&1 && return 0
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/log"
    die "it does not serve"
}
app() { in_tree env PGPASSWORD=secret timeout 30 psql -XAtq -h 127.0.0.1 -p "$port" -U app -v ON_ERROR_STOP=1 "$@" shop; }
start
[ "$(app -c 'SELECT 41 + 1')" = 42 ] || die "no answer through it"
in_tree env PGPASSWORD=secret psql -XAtq -h /run/pglull -p "$port" -U app -c 'SELECT 1' shop >/dev/null || die "no answer over the Unix socket"
app -c '\conninfo'

step "pause, resume, a window"
in_tree pglull admin PAUSE shop
app -c 'SELECT 1' >"$work/held" &
held=$!
for _ in $(seq 100); do in_tree pglull admin --json SHOW HELD | grep -q . && break; sleep 0.1; done
[ ! -s "$work/held" ] || die "PAUSE holds nobody"
in_tree pglull admin RESUME shop
wait "$held" || die "RESUME lets nobody go on"
[ "$(cat "$work/held")" = 1 ] || die "RESUME lets nobody go on"
in_tree pglull window apply shop -c 'CREATE TABLE notes (note text)' --id first-change
app -c "INSERT INTO notes VALUES ('kept')"

step "upgrade: nobody is cut"
mkdir "$work/next"
dpkg-deb -R "$DEB" "$work/next"
sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/next" "$tree/tmp/next.deb" >/dev/null
# A client with an open transaction across the upgrade.
mkfifo "$work/talk"
app -f - <"$work/talk" >"$work/answers" &
client=$!
exec 9>"$work/talk"
echo "BEGIN; INSERT INTO notes VALUES ('across'); SELECT 'open';" >&9
waiting() { [ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND state = 'idle in transaction'")" = 1 ]; }
for _ in $(seq 100); do waiting && break; sleep 0.1; done
waiting || die "the client has no open transaction"
before=${pids[-1]}
in_tree dpkg -i /tmp/next.deb
kill -0 "$before" || die "the upgrade has ended the process"
[ "$(cat "$tree/etc/pglull/pglull.toml")" = "$(cat "$tree/tmp/toml")" ] || die "the upgrade has changed the configuration"
[ "$(in_tree stat -c '%a %U:%G' /etc/pglull/users.txt)" = "640 root:pglull" ] || die "the upgrade has changed users.txt"
echo "COMMIT; SELECT 'done';" >&9
for _ in $(seq 100); do grep -q 'done' "$work/answers" && break; sleep 0.1; done
grep -q 'done' "$work/answers" || die "a client was cut by the upgrade"

step "pglull upgrade: the new program takes over"
heir=$(in_tree pglull upgrade --json | sed -n 's/.*"pid": *"\{0,1\}\([0-9]*\).*/\1/p' | head -1)
[ -n "$heir" ] || die "no other process has taken over"
pids+=("$heir")
# The client that was connected before the package's upgrade goes on, and the old program ends.
wait "$before" || die "the old process ended with $?"
echo "SELECT 'here';" >&9
exec 9>&-
wait "$client" || die "a client was cut by pglull upgrade"
grep -q 'here' "$work/answers" || die "a client was cut by pglull upgrade"
[ "$(app -c "SELECT count(*) FROM notes")" = 2 ] || die "a row is lost"

# As the unit says it. What came by an upgrade is no child of ours.
signal=$(entry KillSignal)
stop() {
    local pid
    pid=$(pgrep -f -P "${pids[-1]}" 'pglull run' || echo "${pids[-1]}")
    kill -"${signal#SIG}" "$pid"
    for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    die "it does not end by $signal"
}
step "restart as the unit says it"
stop
start
[ "$(app -c 'SELECT count(*) FROM notes')" = 2 ] || die "no answer after the restart"
in_tree pglull window show first-change | grep -q applied || die "the receipt is lost"

step "remove"
stop
in_tree dpkg -r pglull
files >"$work/after"
left=$(comm -13 "$work/before" "$work/after" | grep -vE '^\./(etc/pglull(/|$)|etc/needrestart(/|$)|var/lib/pglull(/|$)|etc/(passwd|group|shadow|gshadow|subuid|subgid)-)' || true)
[ -z "$left" ] || die "left after the removal: $left"
[ ! -e "$tree/run/pglull" ] || die "left after the removal: /run/pglull"
in_tree test -e /etc/pglull/pglull.toml || die "the configuration is gone"

step "purge"
in_tree dpkg -P pglull
files >"$work/after"
left=$(comm -13 "$work/before" "$work/after" | grep -vE '^\./etc/(passwd|group|shadow|gshadow|subuid|subgid)-' || true)
[ -z "$left" ] || die "left after the purge: $left"
! in_tree getent passwd pglull >/dev/null || die "the user is left"
printf '\nok: %s\n' "${DEB#"$here"/}"
