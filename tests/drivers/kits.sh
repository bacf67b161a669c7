# shellcheck shell=bash disable=SC2034
# Which drivers there are, what each needs, how it is installed and run; run.sh reads this. HERE and CACHE are set there.

ALL=(psql psycopg3 psycopg2 asyncpg asyncpg-0 pg8000 sqlalchemy django node-postgres postgres.js tokio-postgres sqlx jdbc pgx ruby-pg pdo dbd-pg)
# Apart from the others: it talks to the console only.
readonly EXPORTER=pgbouncer-exporter
# How long one kit of drivers may take to be installed, in seconds.
readonly INSTALL_LIMIT=240
declare -A MISSING=() # kit -> why it is not there

# The kit that a driver is installed with.
kit_of() {
    case $1 in
        psql) echo none ;;
        psycopg3 | psycopg2 | asyncpg | asyncpg-0 | pg8000 | sqlalchemy | django) echo python ;;
        node-postgres | postgres.js) echo node ;;
        tokio-postgres | sqlx) echo rust ;;
        jdbc) echo java ;;
        pgx | "$EXPORTER") echo go ;;
        ruby-pg) echo ruby ;;
        pdo) echo php ;;
        dbd-pg) echo perl ;;
        *) return 1 ;;
    esac
}

# Sets COMMAND to what runs a driver's programme.
command_of() {
    local python=$CACHE/python/bin/python
    case $1 in
        psql) COMMAND=(bash "$HERE/libpq/psql.sh") ;;
        psycopg3 | pg8000 | psycopg2 | sqlalchemy | django) COMMAND=("$python" "$(ls "$HERE/python/$1"*.py)") ;;
        asyncpg) COMMAND=("$python" "$HERE/python/asyncpg_.py") ;;
        asyncpg-0) COMMAND=(env STATEMENT_CACHE=0 "$python" "$HERE/python/asyncpg_.py") ;;
        node-postgres) COMMAND=(node --no-deprecation "$CACHE/node/node_postgres.mjs") ;;
        postgres.js) COMMAND=(node "$CACHE/node/postgres_js.mjs") ;;
        tokio-postgres) COMMAND=("$CACHE/rust/debug/tokio_postgres") ;;
        sqlx) COMMAND=("$CACHE/rust/debug/sqlx") ;;
        jdbc) COMMAND=(java -XX:TieredStopAtLevel=1 -Dfile.encoding=UTF-8 -cp "$CACHE/java:/usr/share/java/postgresql.jar" Jdbc) ;;
        pgx) COMMAND=(env "VERSION=$(package_version golang-github-jackc-pgx-v4-dev)" "$CACHE/go/pgx") ;;
        "$EXPORTER") COMMAND=(env "VERSION=$(package_version golang-github-lib-pq-dev)" "$CACHE/go/exporter") ;;
        ruby-pg) COMMAND=(ruby -W0 "$HERE/ruby/ruby_pg.rb") ;;
        pdo) COMMAND=(php "$HERE/php/pdo.php") ;;
        dbd-pg) COMMAND=(perl "$HERE/perl/dbd_pg.pl") ;;
    esac
}

package_version() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null | sed 's/-[^-]*$//'; }

# The Debian packages of a kit that may be missing.
packages_of() {
    case $1 in
        python) python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv ;;
        node) command -v npm >/dev/null || echo npm ;;
        java)
            echo libpostgresql-jdbc-java
            command -v javac >/dev/null || echo default-jdk-headless
            ;;
        go) printf '%s\n' golang-go golang-github-jackc-pgx-v4-dev golang-github-lib-pq-dev ;;
        ruby) echo ruby-pg ;;
        php) printf '%s\n' php-cli php-pgsql ;;
        perl) echo libdbd-pg-perl ;;
    esac
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 timeout "$INSTALL_LIMIT" apt-get install -y \
        --no-install-recommends -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

# Installs what is missing of these packages; the lists may be there and good, fetching them is the second try.
install_packages() {
    local package absent=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || absent+=("$package")
    done
    [ ${#absent[@]} = 0 ] && return 0
    if ! apt_install "${absent[@]}"; then
        as_root timeout 120 apt-get update -q -o DPkg::Lock::Timeout=120 </dev/null
        apt_install "${absent[@]}"
    fi
}

# What a kit needs beside packages. Each is done once: the stamp is the list of what was asked for.
prepare() {
    case $1 in
        python)
            python3 -m venv "$CACHE/python"
            "$CACHE/python/bin/pip" install --quiet --disable-pip-version-check -r "$HERE/python/requirements.txt"
            ;;
        node)
            mkdir -p "$CACHE/node"
            cp "$HERE"/node/package.json "$CACHE/node/"
            npm install --prefix "$CACHE/node" --no-audit --no-fund --no-package-lock
            ;;
        rust) CARGO_TARGET_DIR=$CACHE/rust cargo build --locked --quiet --manifest-path "$HERE/rust/Cargo.toml" ;;
        java) javac -encoding UTF-8 -cp /usr/share/java/postgresql.jar -d "$CACHE/java" "$HERE/java/Jdbc.java" ;;
        go)
            local path name
            path=$CACHE/go:$(dpkg -L golang-github-lib-pq-dev | grep 'gocode$')
            mkdir -p "$CACHE/go"
            for name in pgx exporter; do
                (cd "$HERE/go/$name" && GO111MODULE=off GOFLAGS='' GOCACHE=$CACHE/go/cache GOPATH=$path go build -o "$CACHE/go/$name" .)
            done
            ;;
    esac
}

# Installs one kit unless that was done with the same files; says why it could not.
install_kit() {
    local kit=$1 folder stamp
    case $kit in java | go | rust | ruby | php | perl | node | python) folder=$HERE/$kit ;; *) return 0 ;; esac
    # Cargo, Go and javac know themselves what is new.
    stamp=$(cat "$folder/requirements.txt" "$folder/package.json" 2>/dev/null || true)
    if [ -n "$stamp" ] && [ "$(cat "$CACHE/$kit.stamp" 2>/dev/null)" = "$stamp" ]; then return 0; fi
    timeout "$INSTALL_LIMIT" bash -c "$(declare -f prepare); set -Eeuo pipefail; prepare $kit" >"$CACHE/$kit.log" 2>&1 || return 1
    printf '%s' "$stamp" >"$CACHE/$kit.stamp"
}

# Installs what the drivers need, kits side by side; fills MISSING.
install_all() {
    local kit started=$SECONDS
    local -A kits=() pids=()
    local packages=()
    mkdir -p "$CACHE"
    for kit in $(for name in "$@"; do kit_of "$name"; done | sort -u); do
        kits[$kit]=1
        mapfile -t -O "${#packages[@]}" packages < <(packages_of "$kit")
    done
    export HERE CACHE
    # These need no packages on most machines: beside apt, which waits for the network too.
    for kit in python node rust; do
        if [ -n "${kits[$kit]:-}" ] && [ -z "$(packages_of "$kit")" ]; then
            install_kit "$kit" &
            pids[$kit]=$!
        fi
    done
    if [ ${#packages[@]} -gt 0 ] && ! install_packages "${packages[@]}" >"$CACHE/packages.log" 2>&1; then
        say "packages could not be installed all at once; the reason is in $CACHE/packages.log"
    fi
    for kit in "${!kits[@]}"; do
        if [ -n "${pids[$kit]:-}" ]; then
            wait "${pids[$kit]}" || MISSING[$kit]="not installed: $(reason "$CACHE/$kit.log")"
        elif [ "$kit" != none ]; then
            # Packages that failed together may be there one by one.
            mapfile -t packages < <(packages_of "$kit")
            install_packages "${packages[@]}" >"$CACHE/$kit.log" 2>&1 && install_kit "$kit" ||
                MISSING[$kit]="not installed: $(reason "$CACHE/$kit.log")"
        fi
    done
    cp "$HERE"/node/*.mjs "$CACHE/node/" 2>/dev/null || true
    say "installed in $((SECONDS - started)) s"
}

# Why an installation failed, from its log.
reason() {
    local line
    line=$(grep -iE 'error|cannot|unable|not found|failed' "$1" | head -1 | cut -c 1-160) || true
    printf '%s' "${line:-no end within $INSTALL_LIMIT s}"
}
