#!/usr/bin/env bash
# The program, arranged after what it does most: built so that it counts its own steps, run through the demo (a load in
# all three protocols, log-ins, a window), and built again with what it has counted. Two whole builds: about a quarter
# of an hour on two cores. What it brings is in benches/NOTES.md.
#
# Needs what `make build` needs, and `rustup component add llvm-tools`.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WORK=${CARGO_TARGET_DIR:-$PWD/target}/pgo
readonly PROFILES=$WORK/profiles
HOST=$(rustc -vV | sed -n 's/^host: //p')
readonly HOST
PROFDATA=$(find "$(rustc --print sysroot)" -name llvm-profdata -type f | head -n 1)
if [ -z "$PROFDATA" ]; then
    echo "missing: llvm-profdata. Install it: rustup component add llvm-tools" >&2
    exit 1
fi

# With a target named, only what ends up in the program counts, not what builds it.
build() {
    cargo build --release --locked --target "$HOST" --target-dir "$WORK"
}

rm -rf "$PROFILES"
mkdir -p "$PROFILES"
# The demo's processes may be another user's.
chmod 1777 "$PROFILES"
echo "1 of 3: a build that counts"
RUSTFLAGS="-Cprofile-generate=$PROFILES" CARGO_PROFILE_RELEASE_LTO=off build
echo "2 of 3: the demo"
LLVM_PROFILE_FILE="$PROFILES/%p-%m.profraw" "$WORK/$HOST/release/pglull" demo --plain
"$PROFDATA" merge -o "$PROFILES/all.profdata" "$PROFILES"/*.profraw
echo "3 of 3: the build"
RUSTFLAGS="-Cprofile-use=$PROFILES/all.profdata" build
echo "built: $WORK/$HOST/release/pglull"
