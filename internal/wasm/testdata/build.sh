#!/bin/sh
# Builds every.wasm of every.c. Needs clang and wasm-ld.
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-$(command -v clang || ls /usr/bin/clang-[0-9]* | tail -n 1)}
LD=${WASM_LD:-$(command -v wasm-ld || ls /usr/bin/wasm-ld-[0-9]* | tail -n 1)}
CORE=$(mktemp)
trap 'rm -f "$CORE"' EXIT
"$CLANG" --target=wasm32-unknown-unknown -O2 -nostdlib -ffreestanding -mbulk-memory -Wall -Wextra -Wno-infinite-recursion \
  -Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=16384 -Wl,--initial-memory=65536 -Wl,--strip-all -fuse-ld="$LD" -o "$CORE" every.c
go run ../../../cmd/sluice wasm wrap "$CORE" --out every.wasm
