#!/usr/bin/env bash
# The Debian package: the program, completions for shells as the program itself writes them, and all of it packed by cargo-deb
# (cargo install --locked cargo-deb). Prints the package's path. PROFILE=dev is faster to build; PGO=1 packs what build-pgo.sh
# builds. Called by `make deb`.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${PROFILE:-release}
folder=$profile
[ "$profile" != dev ] || folder=debug
program=${CARGO_TARGET_DIR:-target}/$folder/pglull
if [ "${PGO:-}" = 1 ]; then
    ./deploy/build-pgo.sh >&2
    install -D "${CARGO_TARGET_DIR:-target}/pgo/pglull" "$program"
else
    cargo build --locked --profile "$profile" >&2
fi
mkdir -p target/completions
"$program" completions bash >target/completions/pglull.bash
"$program" completions zsh >target/completions/_pglull
"$program" completions fish >target/completions/pglull.fish
cargo deb --locked --no-build --profile "$profile" "$@"
