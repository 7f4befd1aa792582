#!/bin/sh
# Builds every.wasm of every.c, look.wasm of look.rs, hooks.wasm of hooks.rs, and
# toil.wasm and chase.wasm of what is named alike. Needs clang, wasm-ld, rustc with the target
# wasm32-unknown-unknown, and wat2wasm.
set -eu
cd "$(dirname "$0")"
CLANG=${CLANG:-$(command -v clang || ls /usr/bin/clang-[0-9]* | tail -n 1)}
LD=${WASM_LD:-$(command -v wasm-ld || ls /usr/bin/wasm-ld-[0-9]* | tail -n 1)}
RUSTC=${RUSTC:-rustc}
CORE=$(mktemp)
trap 'rm -f "$CORE"' EXIT
wrap() { go run ../../../cmd/sluice wasm wrap "$CORE" --out "$1"; }

"$CLANG" --target=wasm32-unknown-unknown -O2 -nostdlib -ffreestanding -mbulk-memory -Wall -Wextra -Wno-infinite-recursion \
  -Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=16384 -Wl,--initial-memory=65536 -Wl,--strip-all -fuse-ld="$LD" -o "$CORE" every.c
wrap every.wasm

for NAME in toil chase; do
  wat2wasm "$NAME.wat" -o "$CORE"
  wrap "$NAME.wasm"
done

# As the build.sh that sluice wasm new writes; RUSTC's own linker, or ours.
LINKER=
ls "$("$RUSTC" --print sysroot)"/lib/rustlib/*/bin/rust-lld >/dev/null 2>&1 || LINKER=$LD
for NAME in look hooks; do
  "$RUSTC" --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib --crate-name module \
    -C opt-level=s -C panic=abort -C lto=fat -C codegen-units=1 -C strip=symbols -C link-arg=-zstack-size=32768 \
    ${LINKER:+-C linker="$LINKER" -C linker-flavor=wasm-ld} -o "$CORE" "$NAME.rs"
  wrap "$NAME.wasm"
done
