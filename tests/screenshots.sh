#!/usr/bin/env bash
# Pictures of the status page in headless Chromium, at the width of a phone and of a desk: during a window and after several.
# Needs chromium (apt-get install chromium), PostgreSQL's programs and a built pglull (PGLULL=target/debug/pglull). Usage:
#   tests/screenshots.sh FOLDER
# Not a test: somebody has to look at the pictures.
set -euo pipefail

out=${1:?a folder for the pictures}
pglull=$(realpath "${PGLULL:-target/debug/pglull}")
bin=${PGBIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)}
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
chmod 755 "$work"
pids=()

# As somebody else where we are root: Postgres does not run as root.
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid nobody --regid nogroup --clear-groups "$@"; else "$@"; fi; }

finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    as "$bin/pg_ctl" -D "$work/pg/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }
there=$(port) here=$(port) web=$(port)
mkdir "$work/pg" && if [ "$(id -u)" = 0 ]; then chown nobody:nogroup "$work/pg"; fi
cd "$work/pg"
as "$bin/initdb" -D "$work/pg/data" -U app -A trust >/dev/null
as "$bin/pg_ctl" -D "$work/pg/data" -w -o "-p $there -k $work/pg -c listen_addresses=127.0.0.1 -c fsync=off" -l "$work/pg/log" start >/dev/null
export PGHOST=127.0.0.1 PGUSER=app
for name in shop billing; do "$bin/createdb" -p "$there" "$name"; done
"$bin/pgbench" -p "$there" -q -i -s 1 shop >/dev/null 2>&1
cat >"$work/pglull.toml" <<END
[pglull]
listen_addr = "127.0.0.1"
listen_port = $here
auth_type = "trust"
auth_file = "$work/users"
admin_socket = "$work/admin"
metrics_addr = "127.0.0.1:$web"
stats_period = "2s"
default_pool_size = 8
[databases.shop]
host = "127.0.0.1"
port = $there
user = "app"
[databases.billing]
host = "127.0.0.1"
port = $there
user = "app"
END
echo '"app" ""' >"$work/users"
"$pglull" run "$work/pglull.toml" >"$work/log" 2>&1 &
pids+=($!)
export PGLULL_ADMIN_SOCKET="$work/admin"
for _ in $(seq 100); do "$pglull" admin SHOW VERSION >/dev/null 2>&1 && break; sleep 0.1; done
"$bin/pgbench" -p "$here" -n -c 24 -T 60 -R 400 shop >/dev/null 2>&1 &
pids+=($!)
"$bin/pgbench" -p "$here" -n -S -f <(echo 'SELECT 1;') -c 4 -T 60 -R 50 billing >/dev/null 2>&1 &
pids+=($!)

picture() { # NAME PATH
    for size in phone:390,1400 desk:1280,1100; do
        for scheme in light dark; do
            dark=(); [ $scheme = dark ] && dark=(--blink-settings=preferredColorScheme=0)
            "$chromium" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
                --window-size="${size#*:}" "${dark[@]}" --screenshot="$out/$1-${size%:*}-$scheme.png" "http://127.0.0.1:$web$2" >/dev/null 2>&1
        done
    done
}

sleep 4
"$pglull" window apply shop --id add-note -c "ALTER TABLE pgbench_accounts ADD COLUMN note text NOT NULL DEFAULT ''" >/dev/null 2>&1
"$pglull" window apply shop --id broken -c 'SELECT 1/0' >/dev/null 2>&1 || true
"$pglull" window rehearse shop --id try-out --rollback -c 'CREATE INDEX ON pgbench_accounts(bid)' >/dev/null 2>&1 || true
"$bin/psql" -qp "$here" shop >/dev/null 2>&1 <<END &
SET application_name = 'nightly report';
BEGIN;
SELECT count(*) FROM pgbench_accounts /* the report that nobody remembers to end, and whose statement is rather long */;
SELECT pg_sleep(60);
END
pids+=($!)
sleep 1
"$pglull" window apply shop --id blocked --drain 800ms -c 'CREATE TABLE nothing()' >/dev/null 2>&1 || true
"$pglull" window apply shop --id running --drain 25s --hold 28s --tenure 30s -c 'CREATE TABLE other()' >/dev/null 2>&1 &
pids+=($!)
sleep 1.5
picture during "/?refresh=off"
"$pglull" window abort running >/dev/null 2>&1 || true
sleep 0.5
picture after "/?refresh=off"
picture receipt /window/add-note
picture blocked /window/blocked
ls "$out"
