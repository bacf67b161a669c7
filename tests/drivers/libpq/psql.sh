#!/usr/bin/env bash
# libpq as its own programs use it: psql for the simple protocol, pgbench for extended, prepared and pipelines.
# shellcheck disable=SC2317  # the steps are called by their names
set -u
T=${TABLE:-items}
TEXT=$'naïve 漢字 😀 \u0301 "quoted" \\ \t'

# Host, port, user, password and database are in the environment.
sql() { psql -XAtq -v ON_ERROR_STOP=1 -v VERBOSITY=sqlstate "$@" 2>&1; }
# One connection, the script on standard input; errors do not end it, their SQLSTATEs are part of the output.
script() { psql -XAtq -v VERBOSITY=sqlstate "$@" 2>&1; }
# A script of pgbench in one query mode. A thread for each client: pgbench waits for Parse with all clients of the thread, and one that
# has a server in a transaction would keep it while another waits for that server.
bench() {
    local mode=$1
    pgbench -n -M "$mode" -c 4 -j 4 -t 25 -f /dev/stdin 2>&1 | grep -E '^(pgbench: error|ERROR|number of transactions actually)' || echo 'no result'
}
all_done='number of transactions actually processed: 100/100'

same() {
    [ "$1" = "$2" ] && return 0
    reason="got ${1:0:80}, expected ${2:0:80}"
    return 1
}

connect() {
    same "$(sql -c 'SELECT 1')" 1 &&
        same "$(sql -c "TRUNCATE $T")" '' &&
        same "$(script <<<'SELECT :SERVER_VERSION_NUM >= 140000;')" t
}
crud() {
    same "$(sql -c "INSERT INTO $T(id, name) VALUES (1, 'a'), (2, 'b')" -c "UPDATE $T SET name = 'c' WHERE id = 1" \
        -c "SELECT name FROM $T ORDER BY id" -c "DELETE FROM $T" -c "SELECT count(*) FROM $T")" $'c\nb\n0'
}
transaction() {
    same "$(script <<<"BEGIN; INSERT INTO $T(id) VALUES (10); INSERT INTO $T(id) VALUES (11); COMMIT; SELECT count(*) FROM $T WHERE id IN (10, 11);")" 2
}
rollback() {
    same "$(script <<<"BEGIN; INSERT INTO $T(id) VALUES (20); SAVEPOINT a; INSERT INTO $T(id) VALUES (21); ROLLBACK TO a;
        SELECT count(*) FROM $T WHERE id IN (20, 21); ROLLBACK; SELECT count(*) FROM $T WHERE id IN (20, 21);")" $'1\n0'
}
prepared() {
    local mode
    for mode in simple extended prepared; do
        same "$(bench "$mode" <<<$'\\set n random(1, 1000)\nSELECT :n + 1;\nBEGIN;\nSELECT :n * 2, :n;\nEND;\nSELECT 1 / (:n);')" "$all_done" || return 1
    done
}
reprepared() {
    same "$(script <<<"PREPARE again(int) AS SELECT \$1 + 1; EXECUTE again(1); PREPARE again AS SELECT 2; DEALLOCATE again;
        EXECUTE again(1); PREPARE again(int) AS SELECT \$1 + 2; EXECUTE again(1); DISCARD ALL; EXECUTE again(1);")" \
        $'2\nERROR:  42P05\nERROR:  26000\n3\nERROR:  26000'
}
batch() {
    local mode
    for mode in extended prepared; do
        same "$(bench "$mode" <<<$'\\startpipeline\nSELECT 1;\nBEGIN;\nSELECT 2;\nEND;\nSELECT 3;\n\\endpipeline')" "$all_done" || return 1
    done
    same "$(script -c 'SELECT 1; SELECT 1 / 0; SELECT 2')" $'1\nERROR:  22012'
}
copy() {
    seq 1000 1999 | same "$(sql -c "COPY $T(id) FROM STDIN")" '' &&
        same "$(sql -c "COPY (SELECT id FROM $T WHERE id >= 1000 ORDER BY id) TO STDOUT" | md5sum)" "$(seq 1000 1999 | md5sum)" &&
        same "$(script <<<"COPY $T(id) FROM STDIN;"$'\nnot a number\n\\.\nSELECT 1;')" $'ERROR:  22P02\n1'
}
cursor() {
    # FETCH_COUNT: psql itself reads through a cursor.
    same "$(script -v FETCH_COUNT=100 <<<'SELECT generate_series(1, 500);' | awk '{ sum += $1 } END { print sum }')" 125250
}
cancel() {
    local wait
    for wait in 1 2 4; do # so that the query runs by then, even on a busy machine
        same "$(timeout --foreground -s INT "$wait" psql -XAtq -v VERBOSITY=sqlstate -c 'SELECT pg_sleep(20)' 2>&1)" \
            $'Cancel request sent\nERROR:  57014' && same "$(sql -c 'SELECT 1')" 1 && return 0
    done
    return 1
}
timeout_() {
    same "$(script <<<"BEGIN; SET LOCAL statement_timeout = '100ms'; SELECT pg_sleep(20); ROLLBACK; SELECT 1;")" $'ERROR:  57014\n1'
}
error() {
    same "$(script <<<"SELECT 1 / 0; BEGIN; SELECT nothing; SELECT 1; ROLLBACK; SELECT 10 / 2;")" $'ERROR:  22012\nERROR:  42703\nERROR:  25P02\n5'
}
null() {
    same "$(script -P null=NULL <<<"INSERT INTO $T(id, name) VALUES (30, NULL); SELECT name FROM $T WHERE id = 30;")" NULL
}
binary() {
    local all
    all=$(printf '%02x' {0..255})
    same "$(script <<<"INSERT INTO $T(id, data) VALUES (40, '\\x$all'); SELECT data FROM $T WHERE id = 40;")" "\\x$all"
}
array() {
    local tags='{plain,"quo\"te","comma,","back\\slash","",NULL,"NULL",ü}'
    same "$(script <<<"INSERT INTO $T(id, tags) VALUES (50, '$tags'); SELECT tags FROM $T WHERE id = 50;")" "$tags"
}
unicode() {
    same "$(script -v "text=$TEXT" <<<"SELECT :'text', length(:'text') = ${#TEXT};")" "$TEXT|t"
}
latin1() {
    for _ in 1 2 3 4 5; do
        same "$(PGCLIENTENCODING=LATIN1 script <<<$'SELECT \'\xe9\' || chr(233); SELECT convert_to(\'\xe9\', \'UTF8\');' | od -An -c | tr -d ' \n')" \
            '351351\n\xc3a9\n' || return 1
    done
}
large() {
    same "$(script <<<"INSERT INTO $T(id, name) SELECT 60, repeat('x', 4194304); SELECT name FROM $T WHERE id = 60;" | wc -c)" 4194305 &&
        same "$({ printf 'SELECT length(%s' "'" && head -c 4194304 /dev/zero | tr '\0' y && printf "');"; } | script)" 4194304 &&
        same "$(sql -c "SELECT n, repeat('y', 100) FROM generate_series(1, 20000) n" | wc -l)" 20000
}
settings() {
    same "$(script < <(echo "SET TIME ZONE 'Asia/Tokyo';"; printf "SELECT current_setting('TimeZone');\n%.0s" {1..20}) | uniq -c | tr -s ' ')" ' 20 Asia/Tokyo' &&
        same "$(PGOPTIONS='-c TimeZone=Asia/Tokyo' script < <(printf 'SHOW TimeZone;\n%.0s' {1..10}) | uniq -c | tr -s ' ')" ' 10 Asia/Tokyo'
}
reconnect() {
    local n
    for n in 1 2 3 4 5; do
        same "$(sql -c "SELECT $n")" "$n" || return 1
    done
    same "$(script -c 'SELECT pg_terminate_backend(pg_backend_pid())' | head -1)" 'FATAL:  57P01' &&
        same "$(script <<<$'SELECT 7;\n\\connect\nSELECT 8;')" $'7\n8'
}

psql --version | awk '{ print "version", $3 }'
failed=0
for ((lap = 0; lap < ${LAPS:-1}; lap++)); do
    for step in connect crud transaction rollback prepared reprepared batch copy cursor cancel timeout error null binary array unicode latin1 large settings reconnect; do
        if [ "$step" = timeout ]; then run=timeout_; else run=$step; fi
        if "$run"; then
            echo "ok $step"
        else
            echo "FAIL $step ${reason//$'\n'/ | }"
            failed=1
        fi
    done
done
exit "$failed"
