#!/bin/sh
# Compiles preview1.c to preview1.wasm. Needs clang and wasm-ld (Debian: clang lld).
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-$(command -v clang || ls /usr/bin/clang-[0-9]* 2>/dev/null | tail -n 1 || true)}
LD=${WASM_LD:-$(command -v wasm-ld || ls /usr/bin/wasm-ld-[0-9]* 2>/dev/null | tail -n 1 || true)}
[ -n "$CLANG" ] && [ -n "$LD" ] || { echo "preview1: clang and wasm-ld are missing; on Debian: apt-get install clang lld" >&2; exit 1; }
"$CLANG" --target=wasm32-unknown-unknown -O2 -nostdlib -ffreestanding -mbulk-memory -Wall -Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=16384 \
  -Wl,--initial-memory=65536 -Wl,--strip-all -fuse-ld="$LD" -o preview1.wasm preview1.c
