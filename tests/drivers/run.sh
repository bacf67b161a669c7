#!/usr/bin/env bash
# Runs the programmes of this folder, each with a real driver, directly against a throwaway Postgres and through
# pglull in transaction mode, and compares: a step that passes directly must pass through pglull. README.md has the table.
#
#   run.sh [all | NAME...]     all is the default; names are those of the table
#
# Settings, all from the environment: PGLULL (the program), PG_BIN (folder with PostgreSQL's programs), DRIVERS_CACHE
# (where drivers are installed, by default target/drivers), POOL_SIZE=3, WORKERS=3 (processes of each driver at once),
# LAPS=2 (how often each runs the list), SAVE=1 (write the table into README.md).
#
# Exits with 1 on any step that does not do as it should, apart from those of expected-failures.txt. A driver that cannot be
# installed here is named and skipped. Everything listens on 127.0.0.1 only and ends with this script.
set -Eeuo pipefail
export LC_ALL=C.UTF-8
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGOPTIONS PGSERVICE PGSSLMODE PGAPPNAME PGCLIENTENCODING

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly ROOT=$HERE/../..
PGLULL=$(readlink -f "${PGLULL:-$ROOT/target/debug/pglull}")
CACHE=$(readlink -m "${DRIVERS_CACHE:-$ROOT/target/drivers}")
readonly PGLULL CACHE
readonly POOL_SIZE=${POOL_SIZE:-3} WORKERS=${WORKERS:-3} LAPS=${LAPS:-2}
# How long one programme may take, in seconds; all that is slow in it are two waits of a second.
readonly PROGRAMME_LIMIT=90

mapfile -t STEPS <"$HERE/steps"

# shellcheck source=tests/drivers/servers.sh
source "$HERE/servers.sh"
# shellcheck source=tests/drivers/kits.sh
source "$HERE/kits.sh"

# ---- runs ------------------------------------------------------------------------------------------------------

# Two clients that take a server again and again, so that nobody else finds the server that it had before.
start_stirring() {
    printf 'SELECT 1;\nBEGIN;\nSELECT 2;\nEND;\n' >"$DIR/stir.sql"
    PGPASSWORD=$PASSWORD "$(find_program pgbench)" -n -c 2 -R 100 -T 1200 -f "$DIR/stir.sql" -h 127.0.0.1 -p "$PROXY_PORT" \
        -U "$ROLE" "$DATABASE" >"$DIR/stir.log" 2>&1 &
    STIR_PID=$!
    PIDS+=("$STIR_PID")
}

# Runs one process of a driver's programme; its lines go to DIR/out/NAME.TARGET.WORKER.
run_worker() {
    local name=$1 target=$2 worker=$3 port=$PG_PORT table out=$DIR/out/$1.$2.$3 rc=0
    [ "$target" = pglull ] && port=$PROXY_PORT
    table=$(tr -c 'a-z0-9' _ <<<"$name")${target}_$worker
    command_of "$name"
    psql_direct -d "$DATABASE" -c "CREATE TABLE $table (id int PRIMARY KEY, name text, data bytea, tags text[])"
    env PGHOST=127.0.0.1 PGPORT="$port" PGUSER="$ROLE" PGPASSWORD="$PASSWORD" PGDATABASE="$DATABASE" TABLE="$table" LAPS="$LAPS" \
        STATS_USER=stats timeout -k 5 "$PROGRAMME_LIMIT" "${COMMAND[@]}" >"$out" 2>"$out.err" </dev/null &
    echo $! >"$out.pid"
    wait $! || rc=$?
    rm "$out.pid"
    printf '%s\n' "$rc" >"$out.rc"
}

# Runs a driver directly (one process) and through pglull (several at once), all at the same time.
run_driver() {
    local name=$1 worker started=$SECONDS
    local workers=()
    run_worker "$name" direct 1 &
    workers+=("$!")
    for ((worker = 1; worker <= WORKERS; worker++)); do
        run_worker "$name" pglull "$worker" &
        workers+=("$!")
    done
    wait "${workers[@]}"
    say "$(printf '%-16s %3d s' "$name" $((SECONDS - started)))  $(summary "$name")"
}

# One line for each step of one driver and target: NAME TARGET STEP RESULT REASON, tab between; the worst result counts.
results_of() {
    local name=$1 target=$2 file
    for file in "$DIR/out/$name.$target".?; do
        awk -v name="$name" -v target="$target" -v laps="$LAPS" -v rc="$(cat "$file.rc")" -v limit="$PROGRAMME_LIMIT" \
            -v last="$(grep -v '^ *$' "$file.err" | tail -1 | tr '\t' ' ' | cut -c 1-120)" -v steps="${STEPS[*]}" '
            $1 == "ok" || $1 == "skip" || $1 == "FAIL" {
                seen[$2]++
                text = $0; sub(/^[^ ]+ [^ ]+ ?/, "", text); gsub(/[\t|]/, " ", text)
                if (rank($1) > rank(result[$2])) { result[$2] = $1; why[$2] = text }
            }
            function rank(word) { return word == "FAIL" ? 3 : word == "skip" ? 2 : word == "ok" ? 1 : 0 }
            END {
                count = split(steps, list, " ")
                for (n = 1; n <= count; n++) {
                    step = list[n]
                    if (result[step] != "FAIL" && seen[step] < laps) {
                        result[step] = "FAIL"
                        why[step] = stopped ? "not reached" : rc == 124 || rc == 137 ? "no end within " limit " s" : "the programme ended (" rc "): " last
                        stopped = 1
                    }
                    print name "\t" target "\t" step "\t" result[step] "\t" why[step]
                }
            }' "$file"
    done | sort -t $'\t' -k3,3 -s | awk -F '\t' -v OFS='\t' -v steps="${STEPS[*]}" '
        function rank(word) { return word == "FAIL" ? 3 : word == "skip" ? 2 : 1 }
        { if (!($3 in best) || rank($4) > rank(best[$3])) { best[$3] = $4; line[$3] = $0 } }
        END { count = split(steps, list, " "); for (n = 1; n <= count; n++) print line[list[n]] }'
}

version_of() { sed -n 's/^version //p' "$DIR/out/$1.direct.1" "$DIR/out/$1.pglull.1" 2>/dev/null | head -1; }

summary() {
    { results_of "$1" direct && results_of "$1" pglull; } >"$DIR/out/$1.tsv"
    awk -F '\t' '{ count[$2 $4]++; if ($4 == "FAIL") list = list " " ($2 == "direct" ? "direct:" : "") $3 }
        END { printf "direct %d ok, through pglull %d ok%s", count["directok"], count["pglullok"], list ? ", FAIL" list : "" }' "$DIR/out/$1.tsv"
}

# ---- judgement -------------------------------------------------------------------------------------------------

# Steps that are known to fail through pglull, as NAME:STEP; NAME:* may fail anywhere, or not.
expected() { sed -n 's/#.*//; s/^\([^ ]*\) \+\([^ ]*\).*/\1:\2/p' "$HERE/expected-failures.txt"; }

# Prints what is wrong, one complaint a line.
complaints() {
    local name
    for name in "$@"; do
        awk -F '\t' -v known="$(expected | tr '\n' ' ')" '
            BEGIN { count = split(known, list, " "); for (n = 1; n <= count; n++) expected[list[n]] = 1 }
            $2 == "direct" { direct[$3] = $4; if ($4 == "FAIL") print $1 " " $3 ": fails directly too, so the programme or Postgres is wrong: " $5; next }
            $4 == direct[$3] && ($1 ":" $3 in expected) { print $1 " " $3 ": passes now: take it out of expected-failures.txt"; next }
            $4 != direct[$3] && !($1 ":" $3 in expected) && !($1 ":*" in expected) { print $1 " " $3 ": " direct[$3] " directly, " $4 " through pglull: " $5 }' "$DIR/out/$name.tsv"
    done
}

# After all drivers are gone, no server may be busy and no client may be there.
left_over() {
    kill -0 "$PGLULL_PID" 2>/dev/null || { echo "pglull has ended: $(tail -1 "$DIR/pglull.log")" && return; }
    until_true 10 no_server_is_busy || echo "a server is still in use after all clients have left: $(psql_console -c 'SHOW POOLS' | grep "$DATABASE")"
    if grep -q panicked "$DIR/pglull.log"; then echo "pglull panicked: $(grep -m1 panicked "$DIR/pglull.log")"; fi
}

no_server_is_busy() {
    [ "$(psql_direct -d postgres -c "SELECT count(*) FROM pg_stat_activity WHERE datname = '$DATABASE' AND state <> 'idle'")" = 0 ]
}

# ---- the table -------------------------------------------------------------------------------------------------

table() {
    local name
    printf '| Driver | Version '
    printf '| %s ' "${STEPS[@]}"
    echo '|'
    printf '|---|---'
    printf '|---%.0s' "${STEPS[@]}"
    echo '|'
    for name in "$@"; do
        printf '| %s | %s ' "$name" "$(version_of "$name")"
        awk -F '\t' '{ if ($2 == "direct") { d[$3] = $4; order[++n] = $3 } else p[$3] = $4 }
            function word(w) { return w == "skip" ? "-" : w }
            END { for (i = 1; i <= n; i++) { s = order[i]; printf "| %s ", d[s] == p[s] ? word(d[s]) : word(d[s]) " / **" word(p[s]) "**" }; print "|" }' "$DIR/out/$name.tsv"
    done
    echo
    echo "$POSTGRES_VERSION; pool of $POOL_SIZE servers, $WORKERS processes of each driver at once and two clients that stir, $LAPS laps;"
    echo "servers were lent $ASSIGNMENTS times."
    notes "$@"
}

notes() {
    local name
    for name in "$@"; do cat "$DIR/out/$name.tsv"; done | sed "s#$HERE/##g" | awk -F '\t' '
        $2 == "direct" && $4 == "skip" { skipped[$5] = skipped[$5] (skipped[$5] ? ", " : "") $1 " " $3 }
        $2 == "pglull" && $4 == "FAIL" { if (!count[$1]++) { order[++drivers] = $1; first[$1] = $3 ": " $5 } }
        END {
            for (why in skipped) lines = lines "- `-` " why ": " skipped[why] "\n"
            printf "\n%s", lines
            if (drivers) print "\nWhat failed through pglull, the first of each driver:\n"
            for (n = 1; n <= drivers; n++) print "- " order[n] " (" count[order[n]] "), " first[order[n]]
        }'
}

save() {
    local begin='<!-- table -->' end='<!-- end of table -->'
    awk -v begin="$begin" -v end="$end" -v file="$DIR/table.md" '
        $0 == begin { print; while ((getline line < file) > 0) print line; inside = 1 }
        $0 == end { inside = 0 }
        !inside && $0 != begin { print }' "$HERE/README.md" >"$DIR/README.md"
    cp "$DIR/README.md" "$HERE/README.md"
}

# ---- all of it -------------------------------------------------------------------------------------------------

main() {
    local names=() ran=() name kit exporter='' skipped=0
    [ $# = 0 ] && set -- all
    for name in "$@"; do
        case $name in
            all) names+=("${ALL[@]}") exporter=1 ;;
            "$EXPORTER") exporter=1 ;;
            *) kit_of "$name" >/dev/null || die "no driver $name; there are: ${ALL[*]} $EXPORTER" && names+=("$name") ;;
        esac
    done
    [ -x "$PGLULL" ] || die "no program $PGLULL: build it first, or set PGLULL"

    install_all "${names[@]}" ${exporter:+"$EXPORTER"}
    DIR=$(mktemp -d)
    mkdir "$DIR/out"
    start_postgres
    start_pglull
    start_stirring
    POSTGRES_VERSION=$(psql_direct -d postgres -c "SELECT 'PostgreSQL ' || split_part(version(), ' ', 2)")

    for name in "${names[@]}"; do
        kit=$(kit_of "$name")
        if [ -n "${MISSING[$kit]:-}" ]; then
            say "SKIPPED $name: ${MISSING[$kit]}"
            skipped=$((skipped + 1))
            continue
        fi
        run_driver "$name"
        ran+=("$name")
    done
    run_exporter "$exporter"
    ASSIGNMENTS=$(psql_console -x -c 'SHOW STATS' | awk -F '|' '$1 == "database" { name = $2 }
        $1 == "total_server_assignment_count" && name == "'"$DATABASE"'" { print $2 }')
    kill -TERM "$STIR_PID" 2>/dev/null || true
    wait "$STIR_PID" 2>/dev/null || true

    { complaints "${ran[@]}" && left_over && cat "$DIR/exporter.txt"; } >"$DIR/complaints"
    table "${ran[@]}" >"$DIR/table.md"
    cp "$DIR/table.md" "$CACHE/table.md"
    [ -n "${SAVE:-}" ] && save
    finish "$skipped" "${ran[@]}"
}

run_exporter() {
    : >"$DIR/exporter.txt"
    [ -n "$1" ] || return 0
    if [ -n "${MISSING[go]:-}" ]; then
        say "SKIPPED $EXPORTER: ${MISSING[go]}"
        return 0
    fi
    # It scrapes while there is something to see.
    run_worker "$EXPORTER" pglull 1
    sed -n "s/^FAIL /$EXPORTER /p" "$DIR/out/$EXPORTER.pglull.1" | while read -r name step why; do
        expected | grep -qxF "$name:$step" || echo "$name $step: $why"
    done >"$DIR/exporter.txt"
    grep -q '^ok version' "$DIR/out/$EXPORTER.pglull.1" || echo "$EXPORTER: $(tail -1 "$DIR/out/$EXPORTER.pglull.1.err")" >>"$DIR/exporter.txt"
    say "$EXPORTER  $(grep -c '^ok' "$DIR/out/$EXPORTER.pglull.1") ok $(grep '^FAIL' "$DIR/out/$EXPORTER.pglull.1" || true)"
}

finish() {
    local skipped=$1 passed failed name
    shift
    say ''
    cat "$DIR/complaints" >&2
    passed=$(for name in "$@"; do cat "$DIR/out/$name.tsv"; done | awk -F '\t' '$2 == "pglull" && $4 == "ok"' | wc -l)
    failed=$(wc -l <"$DIR/complaints")
    say "known to fail: $(expected | wc -l) lines of expected-failures.txt; drivers that could not be installed: $skipped; $SECONDS s"
    for name in "$@"; do
        if expected | grep -qxF "$name:*" && ! grep -qP '\tpglull\t.*\tFAIL\t' "$DIR/out/$name.tsv"; then
            say "note: $name passes whole; expected-failures.txt still allows it to fail"
        fi
    done
    echo "drivers: $passed passed, $failed failed"
    [ "$failed" = 0 ]
}

main "$@"
