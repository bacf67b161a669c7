#!/usr/bin/env bash
# Compares pglull with Debian's PgBouncer and with no proxy at all, in the same rounds, on a throwaway Postgres.
# Prints a Markdown report; what it measures and how to read it: benches/README.md.
#
# Settings, all from the environment: PGLULL (the program), PGBOUNCER (another PgBouncer), PG_BIN (folder with
# PostgreSQL's programs), ROUNDS=3, RUN_SECONDS=3, SAVE=1 (also write benches/results/<date>.md).
# Ends within 3 minutes: rounds for which there is no time left are not begun, and the report says how many ran.
# Everything that it starts listens on 127.0.0.1 only, runs as `nobody` if we are root, and ends with it, also by SIGKILL.
set -Eeuo pipefail
export LC_ALL=C
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGOPTIONS PGSERVICE PGSSLMODE PGAPPNAME

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly PGLULL=${PGLULL:-$HERE/../target/release/pglull}
readonly ROUNDS=${ROUNDS:-3} RUN_SECONDS=${RUN_SECONDS:-3}
# When the last round must have ended, in seconds after our start; the rest of the 3 minutes is for the report.
readonly LIMIT=170
readonly IDLE_CLIENTS=1000
TICKS=$(getconf CLK_TCK)
readonly TICKS

DIR=
PIDS=()       # what cleanup ends, apart from Postgres
POSTGRES_PID=
LOAD_PID=
declare -A PORT=() PID=()
TARGETS=(direct)

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
    # The load is under `timeout`, which passes TERM on but could not pass on KILL.
    [ -n "$LOAD_PID" ] && kill -TERM "$LOAD_PID" 2>/dev/null
    for pid in "${PIDS[@]}"; do
        kill -KILL "$pid" 2>/dev/null
    done
    [ -n "$POSTGRES_PID" ] && kill -QUIT "$POSTGRES_PID" 2>/dev/null
    for pid in "${PIDS[@]}" $LOAD_PID $POSTGRES_PID; do
        wait "$pid" 2>/dev/null
    done
    [ -n "$DIR" ] && rm -rf "$DIR"
    return 0
}

# The same order of folders as deploy/install-deps.sh.
find_program() {
    local folder
    while IFS= read -r folder; do
        if [ -n "$folder" ] && [ -x "$folder/$1" ]; then
            printf '%s\n' "$folder/$1"
            return
        fi
    done < <(
        trap - ERR # to stop reading early is no failure
        if [ -n "${PG_BIN:-}" ]; then
            printf '%s\n' "$PG_BIN"
        else
            pg_config --bindir 2>/dev/null
            find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -rV
            tr ':' '\n' <<<"$PATH"
        fi
    )
    die "missing: $1 (make deps)"
}

# A port on which nobody listens, below the range from which the kernel takes ports for connections. Sets REPLY, for
# in a subshell the ports that were given out before would be forgotten.
free_port() {
    local tries
    for tries in {1..100}; do
        REPLY=$((12000 + RANDOM % 20000))
        [[ " ${PORT[*]} " == *" $REPLY "* ]] && continue
        (exec 3<>"/dev/tcp/127.0.0.1/$REPLY") 2>/dev/null || return 0
    done
    die "no free port after $tries tries"
}

# Waits until what was started answers a query; shows its log if it does not.
await() {
    local name=$1 tries
    for tries in {1..150}; do
        kill -0 "$2" 2>/dev/null || break
        if "$PSQL" -h 127.0.0.1 -p "${PORT[$name]}" -U bench -d "$3" -Atqc 'SELECT 1' >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    tail -n 20 "$DIR/$name.log" >&2 || true
    die "$name does not answer (after $tries tries); above is the end of its log"
}

start_postgres() {
    free_port
    PORT[direct]=$REPLY
    "${RUN[@]}" -- "$INITDB" -D "$DIR/data" -U bench -A trust -E UTF8 --locale=C --no-sync >/dev/null
    "${RUN[@]}" --pdeathsig QUIT -- "$POSTGRES" -D "$DIR/data" -p "${PORT[direct]}" -k "$DIR" \
        -c listen_addresses=127.0.0.1 -c max_connections=200 -c shared_buffers=256MB -c fsync=off \
        -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off >"$DIR/direct.log" 2>&1 &
    POSTGRES_PID=$!
    await direct "$POSTGRES_PID" postgres
    "$PSQL" -h 127.0.0.1 -p "${PORT[direct]}" -U bench -d postgres -Atqc 'CREATE DATABASE bench'
    "$PGBENCH" -i -q -s 10 -h 127.0.0.1 -p "${PORT[direct]}" -U bench bench >"$DIR/init.log" 2>&1 ||
        die "pgbench -i failed: $(tail -n 3 "$DIR/init.log")"
}

# One file for both proxies, for pglull reads a pgbouncer.ini: they differ in the port, and pglull serves no metrics.
start_proxy() {
    local name=$1 config=$DIR/$1.ini command
    free_port
    PORT[$name]=$REPLY
    cat >"$config" <<INI
[databases]
bench = host=127.0.0.1 port=${PORT[direct]} dbname=bench user=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${PORT[$name]}
unix_socket_dir =
auth_type = trust
auth_file = $DIR/users
pool_mode = transaction
default_pool_size = 20
max_client_conn = 2000
log_connections = 0
log_disconnections = 0
INI
    if [ "$name" = pglull ]; then
        printf 'metrics_addr =\n' >>"$config"
        command=("$DIR/pglull" run "$config")
    else
        command=("$PGBOUNCER" "$config")
    fi
    "${RUN[@]}" --pdeathsig KILL -- "${command[@]}" >"$DIR/$name.log" 2>&1 &
    PID[$name]=$!
    PIDS+=("${PID[$name]}")
    await "$name" "${PID[$name]}" bench
    TARGETS+=("$name")
}

# User and system time of a process with all its threads, in ticks.
cpu_ticks() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    read -ra fields <<<"${stat##*) }"
    echo $((fields[11] + fields[12]))
}

rss_kib() { awk '/^VmRSS:/ { print $2 }' "/proc/$1/status"; }

# Runs pgbench so that a signal to us need not wait for its end.
load() {
    local status=0
    "${RUN[@]}" --pdeathsig KILL -- timeout -k 1 $((RUN_SECONDS + 5)) "$PGBENCH" -n -h 127.0.0.1 -U bench "$@" bench \
        >"$DIR/load.log" 2>&1 &
    LOAD_PID=$!
    wait "$LOAD_PID" || status=$?
    LOAD_PID=
    return "$status"
}

# A proxy that ended by itself is a finding, so its last words are shown.
gone() {
    tail -n 20 "$DIR/$1.log" >&2 || true
    die "$1 has ended by itself; above is the end of its log"
}

# Appends a line: round mode clients target tps latency_ms cpu_us_per_transaction, or `failed` from the fifth on.
measure() {
    local round=$1 mode=$2 clients=$3 target=$4 before=0 after=0
    # Only when runs hang: each then takes seconds more than it should.
    ((SECONDS < LIMIT)) || return 0
    [ "$target" = direct ] || before=$(cpu_ticks "${PID[$target]}") || gone "$target"
    if ! load -S -M "$mode" -c "$clients" -j 1 -T "$RUN_SECONDS" -p "${PORT[$target]}"; then
        say "round $round, $mode, $clients clients, $target: $(grep -m1 -i error "$DIR/load.log" || echo failed)"
        [ "$target" = direct ] || tail -n 3 "$DIR/$target.log" >&2
        echo "$round $mode $clients $target failed failed failed" >>"$DIR/runs"
        return
    fi
    [ "$target" = direct ] || after=$(cpu_ticks "${PID[$target]}") || gone "$target"
    awk -v head="$round $mode $clients $target" -v used=$((after - before)) -v ticks="$TICKS" '
        /^number of transactions actually processed:/ { split($6, n, "/"); done = n[1] }
        /^latency average = / { latency = $4 }
        /^tps = / { tps = $3 }
        END {
            if (done + 0 == 0 || tps == "") print head, "failed failed failed"
            else print head, tps, latency, used * 1000000 / ticks / done
        }' "$DIR/load.log" >>"$DIR/runs"
}

# Appends a line: target, KiB at rest, KiB with the idle clients. Silent if that many descriptors are not allowed.
measure_idle() {
    local target=$1 rest tries fds=0
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge $((IDLE_CLIENTS + 200)) ] || return 0
    rest=$(rss_kib "${PID[$target]}")
    echo '\sleep 20 s' >"$DIR/idle.sql"
    "${RUN[@]}" --pdeathsig KILL -- "$PGBENCH" -n -h 127.0.0.1 -U bench -f "$DIR/idle.sql" -c "$IDLE_CLIENTS" -j 1 -t 1 \
        -p "${PORT[$target]}" bench >"$DIR/idle.log" 2>&1 &
    LOAD_PID=$!
    for tries in {1..60}; do
        fds=$(find "/proc/${PID[$target]}/fd" -mindepth 1 | wc -l)
        [ "$fds" -lt "$IDLE_CLIENTS" ] || break
        sleep 0.1
    done
    if [ "$fds" -ge "$IDLE_CLIENTS" ]; then
        sleep 1
        echo "$target $rest $(rss_kib "${PID[$target]}")" >>"$DIR/idle"
    else
        say "$target: $fds descriptors after $tries looks, so no figure for idle clients"
    fi
    kill -TERM "$LOAD_PID" 2>/dev/null || true
    wait "$LOAD_PID" 2>/dev/null || true
    LOAD_PID=
}

# One round: every kind of load, and for each of them every target. The order of the targets turns with the round.
run_round() {
    local round=$1 mode clients i count=${#TARGETS[@]}
    for mode in simple extended; do
        for clients in 16 64; do
            for ((i = 0; i < count; i++)); do
                measure "$round" "$mode" "$clients" "${TARGETS[(i + round) % count]}"
            done
        done
    done
}

report() {
    local rounds=$1
    cat <<HEAD
# pglull beside PgBouncer, $(date -u +%F)

$("$DIR/pglull" --version 2>/dev/null || echo pglull); ${PGBOUNCER_VERSION:-no PgBouncer: its rows and the ratios are missing}; $("$POSTGRES" --version).
$(nproc) cores for all parties, load before $LOAD_BEFORE, after $(cut -d' ' -f1 /proc/loadavg). \`pgbench -S -j 1\`, pool of 20, transaction pooling,
trust, loopback; $rounds of $ROUNDS rounds of $RUN_SECONDS s per figure, interleaved; medians. Only the ratios mean something on another day.

HEAD
    awk -f "$HERE/report.awk" -v idle_clients="$IDLE_CLIENTS" "$DIR/runs" "$DIR/idle"
}

main() {
    local target round done=0 began=0
    trap cleanup EXIT
    trap 'say "line $LINENO failed: $BASH_COMMAND"' ERR
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    [ -x "$PGLULL" ] || die "missing: $PGLULL (make build)"
    command -v setpriv >/dev/null || die "missing: setpriv (package util-linux)"

    INITDB=$(find_program initdb)
    POSTGRES=$(find_program postgres)
    PSQL=$(find_program psql)
    PGBENCH=$(find_program pgbench)
    PGBOUNCER=${PGBOUNCER:-}
    if [ -z "$PGBOUNCER" ] && "$HERE/install-pgbouncer.sh"; then
        PGBOUNCER=$(command -v pgbouncer || echo /usr/sbin/pgbouncer)
    fi
    # What apt took is not ours: the 3 minutes are for the measurement.
    SECONDS=0

    DIR=$(mktemp -d /tmp/pglull-bench-XXXXXX)
    RUN=(setpriv)
    if [ "$(id -u)" = 0 ]; then
        RUN+=("--reuid=nobody" "--regid=$(id -g nobody)" --clear-groups)
    fi
    # A copy, for `nobody` may not be allowed into the folder of the original.
    cp "$PGLULL" "$DIR/pglull"
    echo '"bench" ""' >"$DIR/users"
    : >"$DIR/runs"
    : >"$DIR/idle"
    # Should we be killed without a word, the folder goes all the same.
    (trap '' INT TERM HUP; tail --pid=$$ -f /dev/null; sleep 1; rm -rf "$DIR") >/dev/null 2>&1 &
    PIDS+=("$!")
    chmod 755 "$DIR"
    chmod 600 "$DIR/users"
    [ "$(id -u)" != 0 ] || chown -R nobody "$DIR"
    cd "$DIR"
    LOAD_BEFORE=$(cut -d' ' -f1 /proc/loadavg)

    say "setting up (about 10 s)"
    start_postgres
    if [ -n "$PGBOUNCER" ]; then
        PGBOUNCER_VERSION=$("$PGBOUNCER" --version | head -n 1)
        start_proxy pgbouncer
    fi
    start_proxy pglull
    for target in "${TARGETS[@]:1}"; do
        measure_idle "$target"
    done
    # Fills the pools and Postgres's cache.
    for target in "${TARGETS[@]}"; do
        load -S -c 64 -j 1 -T 1 -p "${PORT[$target]}" || say "warming $target: $(tail -n 1 "$DIR/load.log")"
    done

    for ((round = 1; round <= ROUNDS; round++)); do
        # The mean of the rounds so far is what the next one may take.
        if ((done > 0 && SECONDS + (SECONDS - began) / done > LIMIT)); then
            say "no time left for round $round"
            break
        fi
        ((done > 0)) || began=$SECONDS
        say "round $round of $ROUNDS (about $((4 * ${#TARGETS[@]} * RUN_SECONDS)) s)"
        run_round "$round"
        done=$((done + 1))
    done

    report "$done" | tee "$DIR/report.md"
    if [ "${SAVE:-}" = 1 ]; then
        mkdir -p "$HERE/results"
        cp "$DIR/report.md" "$HERE/results/$(date -u +%F).md"
        say "saved: benches/results/$(date -u +%F).md"
    fi
    ! grep -q failed "$DIR/runs" || die "some runs failed: the figures above leave them out"
}

main "$@"
