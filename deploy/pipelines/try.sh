#!/usr/bin/env bash
# Tries each way of README.md's table for real: a throwaway Postgres, pglull before it, clients at work, and the migration tool
# run by `pglull window apply`. Says for each tool what came of it; one that is not installed is skipped, and that is said.
#
#   PGLULL=target/release/pglull PYTHON=venv/bin/python deploy/pipelines/try.sh [TOOL...]
set -euo pipefail
cd "$(dirname "$0")/../.."

pglull=$(readlink -f "${PGLULL:-target/release/pglull}")
python=${PYTHON:-python3}
[ -x "$pglull" ] || { echo "no program $pglull: PGLULL names it" >&2; exit 2; }
bin=${PG_BIN:-$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -rV | head -1)}
[ -x "$bin/initdb" ] || { echo "no Postgres: PG_BIN names its folder of programs" >&2; exit 2; }
tools=("${@:-all}")

work=$(mktemp -d /var/tmp/pglull-try.XXXXXX)
chmod 755 "$work"
proxy=
postgres() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
finish() {
    [ -z "$proxy" ] || kill -QUIT "$proxy" 2>/dev/null || true
    postgres "$bin/pg_ctl" -D "$work/pg" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

pg_port=$((21500 + $$ % 4000)); port=$((pg_port + 4000))
mkdir "$work/pg"
[ "$(id -u)" != 0 ] || chown postgres "$work/pg"
postgres "$bin/initdb" -D "$work/pg" -A trust -U postgres >/dev/null
postgres "$bin/pg_ctl" -D "$work/pg" -w -o "-p $pg_port -k /tmp -c fsync=off" -l "$work/pg/log" start >/dev/null
sql() { "$bin/psql" -XAtq -h 127.0.0.1 -p "$pg_port" -U shop -v ON_ERROR_STOP=1 shop "$@"; }
"$bin/psql" -XAtq -h 127.0.0.1 -p "$pg_port" -U postgres -c "CREATE ROLE shop LOGIN" -c "CREATE DATABASE shop OWNER shop" postgres

cat >"$work/pglull.toml" <<TOML
[pglull]
listen_port = $port
auth_type = "trust"
auth_file = "users"
metrics_addr = ""
admin_socket = "$work/console"
[databases.shop]
host = "127.0.0.1"
port = $pg_port
user = "shop"
TOML
(umask 077; echo '"shop" ""' >"$work/users")
"$pglull" run "$work/pglull.toml" >"$work/log" 2>&1 &
proxy=$!
export PGLULL_ADMIN_SOCKET=$work/console PGPASSWORD=unused
for _ in $(seq 100); do "$pglull" admin SHOW VERSION >/dev/null 2>&1 && break; sleep 0.1; done
echo 'SELECT 1;' >"$work/load.sql"

# name, what it needs to be there, the command: run twice, under load; then its table must be there.
try() {
    local name=$1 needs=$2 folder=$work/$1; shift 2
    [[ " ${tools[*]} " == *" all "* || " ${tools[*]} " == *" $name "* ]] || return 0
    if ! (cd "$folder" && eval "$needs") >/dev/null 2>&1; then
        printf '%-10s skipped: not installed (%s)\n' "$name" "$needs"
        return 0
    fi
    "$bin/pgbench" -n -h 127.0.0.1 -p "$port" -U shop -c 4 -R 100 -T 8 -f "$work/load.sql" shop >"$work/load" 2>&1 &
    local load=$! before=$SECONDS why=
    (cd "$folder" && "$pglull" window apply shop --apply 40s --hold 45s --plain "$@") >"$work/out" 2>&1 || why="exit code $?"
    [ -n "$why" ] || (cd "$folder" && "$pglull" window apply shop --apply 40s --hold 45s --plain "$@") >>"$work/out" 2>&1 || why="the second run: exit code $?"
    [ -n "$why" ] || [ "$(sql -c "SELECT to_regclass('${name}_note') IS NOT NULL")" = t ] || why="no table ${name}_note"
    wait "$load" || why="${why:-a client had an error}"
    grep -q 'number of failed transactions: 0' "$work/load" || why="${why:-a client had an error}"
    if [ -n "$why" ]; then
        tail -15 "$work/out" "$work/load"
        printf '%-10s FAILED: %s\n' "$name" "$why"
        exit 1
    fi
    printf '%-10s ok, twice, %s s; clients: %s\n' "$name" "$((SECONDS - before))" "$(grep -E 'transactions actually' "$work/load" | sed 's/.*: //') transactions, 0 failed"
}

mkdir -p "$work"/{sql,psql,alembic/migrations/versions,django/notes/migrations,rails/{config,db/migrate},sqlx/migrations,flyway}

echo 'CREATE TABLE sql_note (note text);' >"$work/sql/001_note.sql"
try sql true "$work/sql"

echo 'CREATE TABLE IF NOT EXISTS psql_note (note text);' >"$work/psql/note.sql"
try psql true -- "$bin/psql" -X -v ON_ERROR_STOP=1 -f note.sql

cat >"$work/alembic/alembic.ini" <<'INI'
[alembic]
script_location = migrations
INI
cat >"$work/alembic/migrations/env.py" <<'PY'
from alembic import context
from sqlalchemy import create_engine
# An URL without a place: libpq takes PGHOST and its like from the environment.
with create_engine("postgresql+psycopg://").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
PY
cat >"$work/alembic/migrations/versions/0001_note.py" <<'PY'
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.execute("CREATE TABLE alembic_note (note text)")
PY
try alembic "$python -c 'import alembic, psycopg'" -- "$python" -m alembic upgrade head

cat >"$work/django/settings.py" <<'PY'
import os
SECRET_KEY = "unused"
INSTALLED_APPS = ["notes"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
                         "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"], "PASSWORD": os.environ.get("PGPASSWORD", "")}}
PY
touch "$work/django/notes/__init__.py" "$work/django/notes/migrations/__init__.py"
cat >"$work/django/notes/migrations/0001_initial.py" <<'PY'
from django.db import migrations
class Migration(migrations.Migration):
    operations = [migrations.RunSQL("CREATE TABLE django_note (note text)")]
PY
try django "$python -c 'import django, psycopg'" -- env DJANGO_SETTINGS_MODULE=settings PYTHONPATH=. "$python" -m django migrate

cat >"$work/rails/config/application.rb" <<'RB'
require "rails"
require "active_record/railtie"
class Shop < Rails::Application
  config.root = File.expand_path("..", __dir__)
  config.eager_load = false
  config.active_record.dump_schema_after_migration = false
end
RB
printf 'require_relative "application"\nRails.application.initialize!\n' >"$work/rails/config/environment.rb"
printf 'require_relative "config/application"\nRails.application.load_tasks\n' >"$work/rails/Rakefile"
# Without a place, libpq takes PGHOST and its like from the environment.
printf 'production:\n  adapter: postgresql\n  database: <%%= ENV["PGDATABASE"] %%>\n' >"$work/rails/config/database.yml"
cat >"$work/rails/db/migrate/20260101000000_create_note.rb" <<'RB'
class CreateNote < ActiveRecord::Migration[6.1]
  def change
    create_table(:rails_note) { |t| t.text :note }
  end
end
RB
try rails "ruby -e 'require %q(rails); require %q(active_record); require %q(pg)'" -- env RAILS_ENV=production SECRET_KEY_BASE=unused rake db:migrate

echo 'CREATE TABLE sqlx_note (note text);' >"$work/sqlx/migrations/20260101000000_note.sql"
# shellcheck disable=SC2016  # the window's own variables
try sqlx "sqlx --version" -- sh -c 'DATABASE_URL="postgres://$PGUSER@$PGHOST:$PGPORT/$PGDATABASE?sslmode=disable" sqlx migrate run'

echo 'CREATE TABLE flyway_note (note text);' >"$work/flyway/V1__note.sql"
# shellcheck disable=SC2016
try flyway "flyway -v" -- sh -c 'flyway -url="jdbc:postgresql://$PGHOST:$PGPORT/$PGDATABASE" -user="$PGUSER" -password="$PGPASSWORD" -locations=filesystem:. migrate'

# A tool that fails ends the window with exit code 1, and the clients go on.
code=0
"$pglull" window apply shop --plain -- false >"$work/out" 2>&1 || code=$?
[ "$code" = 1 ] || { cat "$work/out"; echo "a tool that fails: exit code $code"; exit 1; }
echo "failure    exit code 1, the clients go on"
