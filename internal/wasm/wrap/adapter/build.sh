#!/bin/sh
# Compiles adapter.c to adapter.wasm. Needs clang and wasm-ld (Debian: clang lld).
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-$(command -v clang || ls /usr/bin/clang-[0-9]* 2>/dev/null | tail -n 1 || true)}
LD=${WASM_LD:-$(command -v wasm-ld || ls /usr/bin/wasm-ld-[0-9]* 2>/dev/null | tail -n 1 || true)}
[ -n "$CLANG" ] && [ -n "$LD" ] || { echo "adapter: clang and wasm-ld are missing; on Debian: apt-get install clang lld" >&2; exit 1; }
"$CLANG" --target=wasm32-unknown-unknown -Os -nostdlib -ffreestanding -fno-builtin -Wall -Wno-unused-parameter \
  -Wl,--no-entry -Wl,--import-memory -Wl,--initial-memory=65536 -Wl,-z,stack-size=16 -Wl,--strip-all -fuse-ld="$LD" -o adapter.wasm adapter.c
