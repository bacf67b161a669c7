# shellcheck shell=bash disable=SC2034
# A throwaway Postgres and a pglull before it, and how both end; run.sh and heal.sh read this. HERE, ROOT, PGLULL and POOL_SIZE
# are set there. Everything listens on 127.0.0.1 only and is gone when that script ends.

readonly DATABASE=drivers ROLE=driver PASSWORD=secret

DIR=
POSTGRES_PID=
PIDS=()

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

cleanup() {
    local pid
    trap - ERR
    set +e
    trap '' INT TERM HUP
    [ -n "$DIR" ] && mapfile -t -O "${#PIDS[@]}" PIDS < <(cat "$DIR"/out/*.pid 2>/dev/null)
    for pid in "${PIDS[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    [ -n "$POSTGRES_PID" ] && kill -QUIT "$POSTGRES_PID" 2>/dev/null
    for pid in "${PIDS[@]}" $POSTGRES_PID; do wait "$pid" 2>/dev/null; done
    [ -n "$DIR" ] && rm -rf "$DIR"
    return 0
}

# ---- servers ---------------------------------------------------------------------------------------------------

find_program() {
    local folder
    while IFS= read -r folder; do
        if [ -n "$folder" ] && [ -x "$folder/$1" ]; then
            printf '%s\n' "$folder/$1"
            return 0
        fi
    done < <(
        [ -n "${PG_BIN:-}" ] && printf '%s\n' "$PG_BIN"
        pg_config --bindir 2>/dev/null || true
        find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -rV || true
        tr ':' '\n' <<<"$PATH"
    )
    die "$1 was not found: install PostgreSQL, or set PG_BIN"
}

# A port that nobody listens on now.
free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null || { echo "$port" && return 0; }
    done
    return 1
}

# Waits until a command succeeds, a number of seconds at most.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

start_postgres() {
    local as=() pid_file
    chmod 755 "$DIR"
    mkdir "$DIR/pg"
    printf '%s' "$PASSWORD" >"$DIR/pg/pw"
    if [ "$(id -u)" = 0 ]; then
        chown -R nobody "$DIR/pg"
        as=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups --)
    fi
    pid_file=$DIR/pg/data/postmaster.pid
    cd "$DIR/pg" || exit
    "${as[@]}" "$(find_program initdb)" -D data -U "$ROLE" -A scram-sha-256 --pwfile=pw -E UTF8 --locale=C --no-sync >/dev/null
    PG_PORT=$(free_port)
    "${as[@]}" "$(find_program postgres)" -D data -p "$PG_PORT" -k "$DIR/pg" -c listen_addresses=127.0.0.1 -c fsync=off \
        -c timezone=UTC -c log_timezone=UTC >"$DIR/postgres.log" 2>&1 &
    POSTGRES_PID=$!
    until_true 30 grep -q ready "$pid_file" || die "Postgres did not start: $(tail -3 "$DIR/postgres.log")"
    cd "$ROOT" || exit
    psql_direct -d postgres -c "CREATE DATABASE $DATABASE"
}

psql_direct() { PGPASSWORD=$PASSWORD psql -XAtq -h 127.0.0.1 -p "$PG_PORT" -U "$ROLE" -v ON_ERROR_STOP=1 "$@"; }

start_pglull() {
    PROXY_PORT=$(free_port)
    printf '"%s" "%s"\n"stats" "%s"\n"operator" "%s"\n' "$ROLE" "$PASSWORD" "$PASSWORD" "$PASSWORD" >"$DIR/userlist.txt"
    cat >"$DIR/pglull.toml" <<END
[pglull]
listen_addr = "127.0.0.1"
listen_port = $PROXY_PORT
auth_file = "userlist.txt"
stats_users = "stats"
admin_users = "operator"
default_pool_size = $POOL_SIZE
pool_mode = "transaction"
query_wait_timeout = "30s"
metrics_addr = ""
[databases.$DATABASE]
host = "127.0.0.1"
port = $PG_PORT
apply_user = "$ROLE"
END
    "$PGLULL" run "$DIR/pglull.toml" >"$DIR/pglull.log" 2>&1 &
    PGLULL_PID=$!
    PIDS+=("$PGLULL_PID")
    until_true 10 env PGPASSWORD="$PASSWORD" psql -XAtq -h 127.0.0.1 -p "$PROXY_PORT" -U "$ROLE" -d "$DATABASE" -c 'SELECT 1' ||
        die "pglull did not start: $(tail -3 "$DIR/pglull.log")"
}

psql_console() { PGPASSWORD=$PASSWORD psql -XAtq -h 127.0.0.1 -p "$PROXY_PORT" -U stats -d pgbouncer "$@"; }

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
