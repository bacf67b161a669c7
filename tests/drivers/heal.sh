#!/usr/bin/env bash
# Changes a table under the feet of real drivers: 16 clients of each loop over statements on it in autocommit, all of them
# prepared, while columns are added, changed in type and dropped, first in windows, then beside pglull. No application may see an
# error. One more client of each works in transactions: there only Postgres' own "cached plan must not change result type" may come.
#
#   heal.sh [DRIVER...]        psycopg3 asyncpg jdbc pgbench
#
# Settings, all from the environment: PGLULL, PG_BIN, DRIVERS_CACHE, POOL_SIZE=8, ROUNDS=2 (of six changes, for each driver and way).
set -Eeuo pipefail
export LC_ALL=C.UTF-8
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGOPTIONS PGSERVICE PGSSLMODE PGAPPNAME PGCLIENTENCODING

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly ROOT=$HERE/../..
PGLULL=$(readlink -f "${PGLULL:-$ROOT/target/debug/pglull}")
CACHE=$(readlink -m "${DRIVERS_CACHE:-$ROOT/target/drivers}")
readonly PGLULL CACHE
readonly POOL_SIZE=${POOL_SIZE:-8}
readonly ROUNDS=${ROUNDS:-2}
readonly CHANGES=(
    'ALTER TABLE healed ADD COLUMN added int'
    'ALTER TABLE healed ALTER COLUMN amount TYPE bigint'
    'ALTER TABLE healed DROP COLUMN extra'
    'ALTER TABLE healed DROP COLUMN added'
    'ALTER TABLE healed ALTER COLUMN amount TYPE int'
    "ALTER TABLE healed ADD COLUMN extra text DEFAULT 'e'"
)

# shellcheck source=tests/drivers/servers.sh
source "$HERE/servers.sh"
# shellcheck source=tests/drivers/kits.sh
source "$HERE/kits.sh"

prepare_table() {
    psql_direct -d "$DATABASE" -c "CREATE TABLE healed (id int PRIMARY KEY, name text, amount int, extra text DEFAULT 'e', note text)" \
        -c "INSERT INTO healed SELECT n, 'name' || n, n * 10, 'e', 'n' FROM generate_series(1, 100) n"
}

in_window() {
    PGPASSWORD=$PASSWORD "$PGLULL" window apply "$DATABASE" -c "$1" --url "127.0.0.1:$PROXY_PORT" --user operator --json \
        >>"$DIR/receipts" 2>>"$DIR/windows.log" || say "window failed: $1: $(tail -3 "$DIR/windows.log")"
}

beside() { psql_direct -d "$DATABASE" -c "SET client_min_messages = error; $1" || say "change failed: $1"; }

# Changes the table, there and back, a number of times.
change() {
    local way=$1 round sql
    for ((round = 0; round < ROUNDS; round++)); do
        for sql in "${CHANGES[@]}"; do
            "$way" "$sql"
            sleep 0.2
        done
    done
}

heal_command_of() {
    case $1 in
        psycopg3 | asyncpg) COMMAND=("$CACHE/python/bin/python" "$HERE/heal/$1_heal.py") ;;
        jdbc) COMMAND=(java -XX:TieredStopAtLevel=1 -cp "$CACHE/java:/usr/share/java/postgresql.jar" Heal) ;;
        pgbench) COMMAND=("$HERE/heal/pgbench_heal.sh" "$(find_program pgbench)") ;;
        *) die "no driver $1" ;;
    esac
}

heal_kit_of() { case $1 in psycopg3 | asyncpg) echo python ;; jdbc) echo java ;; *) echo none ;; esac; }

# One driver, and one way of changing the table beside it.
run_way() {
    local way=$1 name=$2 out=$DIR/out/$2.$1 client
    heal_command_of "$name"
    env PGHOST=127.0.0.1 PGPORT="$PROXY_PORT" PGUSER="$ROLE" PGPASSWORD="$PASSWORD" PGDATABASE="$DATABASE" STOP="$out.stop" \
        timeout -k 5 120 "${COMMAND[@]}" >"$out" 2>"$out.err" </dev/null &
    client=$!
    PIDS+=("$client")
    until_true 30 grep -q ready "$out" && change "$way"
    touch "$out.stop"
    wait "$client" || true
    report "$way" "$name"
}

# One line for a driver; what is wrong with it goes to DIR/complaints.
report() {
    local way=$1 name=$2 out=$DIR/out/$2.$1 figures
    local statements=0 errors=1 blocks=0 changed=0 odd=0 stuck=0 slowest_ms=0 version=''
    figures=$(sed -n 's/^figures //p' "$out")
    for pair in $figures; do printf -v "${pair%%=*}" '%s' "${pair#*=}"; done
    printf '%-9s %-9s %3d changes  %7d statements %3d errors  longest %4d ms, %5d transactions, %d told of a changed result, %d other errors  (%s)\n' \
        "$name" "$way" $((ROUNDS * ${#CHANGES[@]})) "$statements" "$errors" "$slowest_ms" "$blocks" "$changed" "$odd" "$version"
    if [ "$errors" != 0 ] || [ "$odd" != 0 ] || [ "$stuck" != 0 ] || [ "$statements" = 0 ]; then
        { echo "$name $way: $errors errors, $odd other errors in transactions, $statements statements" && grep '^ERROR' "$out" && tail -2 "$out.err"; } >>"$DIR/complaints" || true
    fi
}

main() {
    local names=() name
    [ $# = 0 ] && set -- psycopg3 asyncpg jdbc pgbench
    [ -x "$PGLULL" ] || die "no program $PGLULL: build it first, or set PGLULL"
    # kits.sh knows these two kits by drivers of theirs.
    install_all psycopg3 jdbc
    if [ -z "${MISSING[java]:-}" ]; then
        javac -encoding UTF-8 -cp /usr/share/java/postgresql.jar -d "$CACHE/java" "$HERE/heal/Heal.java" || MISSING[java]="Heal.java does not compile"
    fi
    for name in "$@"; do
        if [ -n "${MISSING[$(heal_kit_of "$name")]:-}" ]; then say "SKIPPED $name: ${MISSING[$(heal_kit_of "$name")]}"; else names+=("$name"); fi
    done
    DIR=$(mktemp -d)
    mkdir "$DIR/out"
    : >"$DIR/complaints"
    start_postgres
    prepare_table
    start_pglull
    for name in "${names[@]}"; do
        run_way in_window "$name"
        run_way beside "$name"
    done
    if grep -q panicked "$DIR/pglull.log"; then echo "pglull panicked: $(grep -m1 panicked "$DIR/pglull.log")" >>"$DIR/complaints"; fi
    cat "$DIR/complaints" >&2
    echo "healing: $([ -s "$DIR/complaints" ] && echo failed || echo passed), $SECONDS s"
    [ ! -s "$DIR/complaints" ]
}

main "$@"
