#!/bin/sh
# Builds NAME.wasm of NAME.c. Needs clang and wasm-ld, and sluice. Nothing is
# downloaded.
set -eu
case ${SLUICE:=sluice} in [!/]*/*) SLUICE=$PWD/$SLUICE ;; esac
cd "$(dirname "$0")"
NAME=rate-limit
missing() { echo "$0: $1" >&2; exit 1; }

command -v "$SLUICE" >/dev/null || missing "sluice is missing; put it into PATH or say where it is: SLUICE=/path/to/sluice $0"
CLANG=${CLANG:-$(command -v clang || ls /usr/bin/clang-[0-9]* 2>/dev/null | tail -n 1 || true)}
LD=${WASM_LD:-$(command -v wasm-ld || ls /usr/bin/wasm-ld-[0-9]* 2>/dev/null | tail -n 1 || true)}
[ -n "$CLANG" ] || missing "clang is missing; on Debian: apt-get install clang, on macOS: brew install llvm"
[ -n "$LD" ] || missing "wasm-ld is missing; on Debian: apt-get install lld, on macOS: brew install lld"

CORE=$(mktemp)
trap 'rm -f "$CORE"' EXIT
"$CLANG" --target=wasm32-unknown-unknown -O2 -nostdlib -ffreestanding -mbulk-memory -Wall -Wextra \
  -Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=16384 -Wl,--initial-memory=65536 -Wl,--strip-all -fuse-ld="$LD" -o "$CORE" "$NAME.c"
"$SLUICE" wasm wrap "$CORE" --out "$NAME.wasm"
