#!/usr/bin/env bash
# pgbench -M prepared: libpq's named statements; a client that sees an error stops. Runs until STOP is there.
set -Eeuo pipefail
PGBENCH=$1
DIR=$(mktemp -d)
trap 'rm -rf "$DIR"' EXIT
cat >"$DIR/script" <<'END'
\set id random(1, 100)
SELECT * FROM healed WHERE id = :id;
SELECT id, name FROM healed WHERE id = :id;
SELECT id, amount FROM healed WHERE id = :id;
SELECT h.*, o.name AS other FROM healed h JOIN healed o USING (id) WHERE h.id = :id;
UPDATE healed SET note = 'n' WHERE id = :id RETURNING *;
END
"$PGBENCH" -n -M prepared -c 16 -T 600 -P 1 -f "$DIR/script" >"$DIR/log" 2>&1 &
pid=$!
while [ ! -e "$STOP" ]; do
    grep -q '^progress' "$DIR/log" && [ ! -e "$DIR/ready" ] && touch "$DIR/ready" && echo ready
    sleep 0.1
done
kill -TERM "$pid" 2>/dev/null || true
wait "$pid" 2>/dev/null || true
grep -E 'error|aborted' "$DIR/log" | head -5 | sed 's/^/ERROR /' || true
errors=$(grep -c 'aborted in' "$DIR/log" || true)
statements=$(sed -n 's/^progress: [0-9.]* s, \([0-9]*\).*/\1/p' "$DIR/log" | awk '{ sum += $1 } END { print sum * 5 }')
echo "figures statements=$statements errors=$errors blocks=0 changed=0 odd=0 stuck=0 slowest_ms=0 version=$("$PGBENCH" --version | awk '{ print $1 "-" $3 }')"
