#!/bin/sh
# Builds NAME.wasm of NAME.rs. Needs rustc with the target wasm32-unknown-unknown,
# and sluice. Nothing is downloaded.
set -eu
case ${SLUICE:=sluice} in [!/]*/*) SLUICE=$PWD/$SLUICE ;; esac
cd "$(dirname "$0")"
NAME=@NAME@
missing() { echo "$0: $1" >&2; exit 1; }

# can tells if a rustc has the target. Of several the first that has it is taken:
# rustup's may lack it where Debian's has it.
can() { lib=$("$1" --print target-libdir --target wasm32-unknown-unknown 2>/dev/null) && [ -d "$lib" ]; }
[ -n "${RUSTC:-}" ] || can rustc || ! can /usr/bin/rustc || RUSTC=/usr/bin/rustc
RUSTC=${RUSTC:-rustc}
command -v "$SLUICE" >/dev/null || missing "sluice is missing; put it into PATH or say where it is: SLUICE=/path/to/sluice $0"
command -v "$RUSTC" >/dev/null || missing "$RUSTC is missing; https://rustup.rs, or on Debian: apt-get install rustc lld libstd-rust-dev-wasm32"
can "$RUSTC" || missing "$RUSTC cannot compile for WebAssembly; rustup target add wasm32-unknown-unknown, or on Debian: apt-get install rustc lld libstd-rust-dev-wasm32"

# rustup's rustc brings a linker; Debian's has its own, perhaps with a version in
# its name.
LINKER=
if ! ls "$("$RUSTC" --print sysroot)"/lib/rustlib/*/bin/rust-lld >/dev/null 2>&1; then
  LINKER=$(command -v wasm-ld || ls /usr/bin/wasm-ld-[0-9]* 2>/dev/null | tail -n 1 || true)
  [ -n "$LINKER" ] || missing "wasm-ld is missing; on Debian: apt-get install lld"
fi

# A folder of its own: rustc writes more beside what it is asked for.
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
"$RUSTC" --edition 2021 --target wasm32-unknown-unknown --crate-type cdylib --crate-name module \
  -C opt-level=s -C panic=abort -C lto=fat -C codegen-units=1 -C strip=symbols -C link-arg=-zstack-size=32768 \
  ${LINKER:+-C linker="$LINKER" -C linker-flavor=wasm-ld} -o "$TMP/core.wasm" "$NAME.rs"
"$SLUICE" wasm wrap "$TMP/core.wasm" --out "$NAME.wasm"
