#!/usr/bin/env bash
# The program, arranged after what it does most: built so that it counts its own steps, run through the demo (a load in
# all three protocols, log-ins, a window), and built again with what it has counted: what a transaction needs is in one piece
# and stands together, everything else apart. Two whole builds: a quarter of an hour on two cores, or half of one. What it
# brings is in benches/NOTES.md.
#
# Needs what `make build` needs, and an llvm-profdata that reads this compiler's profiles: rustup's (component llvm-tools), one
# of LLVM 19 or newer on the PATH, or what LLVM_PROFDATA names. If there is none, rustup or apt is asked for it.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WORK=${CARGO_TARGET_DIR:-$PWD/target}/pgo
readonly PROFILES=$WORK/profiles
HOST=$(rustc -vV | sed -n 's/^host: //p')
readonly HOST
readonly PROGRAM=$WORK/$HOST/release/pglull

profdata() {
    if [ -n "${LLVM_PROFDATA:-}" ]; then
        printf '%s\n' "$LLVM_PROFDATA"
        return
    fi
    compgen -c llvm-profdata- | sort -V | awk -F- '$3 >= 19' || true
    find "$(rustc --print sysroot)" -name llvm-profdata -type f
}

fetch_profdata() {
    timeout 120 rustup component add llvm-tools || apt-get install -y --no-install-recommends llvm-19
} >/dev/null 2>&1 </dev/null

# With a target named, only what ends up in the program counts, not what builds it. Both builds are of one Cargo profile: its
# settings are in the names of all functions, and what was counted is of no use to those of other names.
build() {
    cargo build --release --locked --target "$HOST" --target-dir "$WORK"
}

# What the relay's functions are called.
names() {
    nm "$PROGRAM" | grep -oE '_ZN6pglull7session5relay[A-Za-z0-9_$.]*17h[0-9a-f]{16}E' | sort -u
}

PROFDATA=$(profdata | tail -n 1)
if [ -z "$PROFDATA" ] && fetch_profdata; then
    PROFDATA=$(profdata | tail -n 1)
fi
if [ -z "$PROFDATA" ]; then
    echo "missing: llvm-profdata. Install it (rustup component add llvm-tools) or name it in LLVM_PROFDATA" >&2
    exit 1
fi
rm -rf "$PROFILES"
mkdir -p "$PROFILES"
# The demo's processes may be another user's.
chmod 1777 "$PROFILES"
echo "1 of 3: a build that counts"
RUSTFLAGS="-Cprofile-generate=$PROFILES" build
names >"$PROFILES/names"
echo "2 of 3: the demo"
LLVM_PROFILE_FILE="$PROFILES/%p-%m.profraw" "$PROGRAM" demo --plain
"$PROFDATA" merge -o "$PROFILES/all.profdata" "$PROFILES"/*.profraw
echo "3 of 3: the build"
# The linker keeps what is run often, seldom and never in sections of their own.
RUSTFLAGS="-Cprofile-use=$PROFILES/all.profdata -Clink-arg=-Wl,-z,keep-text-section-prefix" build
if [ -z "$(names | comm -12 - "$PROFILES/names")" ]; then
    echo "what was counted is of no use: the functions of both builds have different names" >&2
    exit 1
fi
install "$PROGRAM" "$WORK/pglull"
echo "built: $WORK/pglull"
