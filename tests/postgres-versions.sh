#!/usr/bin/env bash
# The integration tests against several Postgres versions as servers: `tests/postgres-versions.sh [VERSION ...] [-- FILTER ...]`.
# Without versions: 14 to 18. FILTERs are names of tests, as for `cargo test`. The figures of each version are printed
# at the end. If the programs cannot be fetched, this says so loudly and ends with 0, or with 3 if NEED_VERSIONS is set.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do versions+=("$1"); shift; done
[ "${1:-}" != -- ] || shift
[ ${#versions[@]} -gt 0 ] || versions=(14 15 16 17 18)

if ! folders=$(./deploy/fetch-postgres.sh "${versions[@]}"); then
    printf '\n*** SKIPPED: Postgres %s as servers: their programs cannot be fetched here ***\n\n' "${versions[*]}"
    [ -z "${NEED_VERSIONS:-}" ] || exit 3
    exit 0
fi

# One build for all of them.
${CARGO:-cargo} test --locked --test it --no-run
failed=()
summary=
for version in "${versions[@]}"; do
    folder=$(sed -n 1p <<<"$folders")
    folders=$(sed 1d <<<"$folders")
    printf '\n== Postgres %s: %s\n' "$version" "$("$folder/postgres" --version)"
    log=$(mktemp)
    if ! PG_BIN=$folder ${CARGO:-cargo} test --locked --test it -- "$@" 2>&1 | tee "$log"; then
        failed+=("$version")
    fi
    summary+="$version  $(grep -h '^test result' "$log" | tail -1)"$'\n'
    rm -f "$log"
done
printf '\n%s' "$summary"
[ ${#failed[@]} -eq 0 ] || { echo "failed on ${failed[*]}"; exit 1; }
