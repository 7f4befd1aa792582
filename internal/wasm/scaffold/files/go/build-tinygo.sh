#!/bin/sh
# Builds NAME.wasm of the Go files here. Needs TinyGo 0.35, and sluice. Nothing
# is downloaded.
set -eu
case ${SLUICE:=sluice} in [!/]*/*) SLUICE=$PWD/$SLUICE ;; esac
cd "$(dirname "$0")"
NAME=@NAME@
missing() { echo "$0: $1" >&2; exit 1; }

command -v "$SLUICE" >/dev/null || missing "sluice is missing; put it into PATH or say where it is: SLUICE=/path/to/sluice $0"
command -v tinygo >/dev/null || missing "tinygo is missing; https://tinygo.org/getting-started/install (sluice wasm new --lang go is for Go itself)"

CORE=$(mktemp)
trap 'rm -f "$CORE"' EXIT
GOWORK=off tinygo build -target=wasm-unknown -buildmode=c-shared -opt=s -no-debug -panic=trap -o "$CORE" .
"$SLUICE" wasm wrap "$CORE" --out "$NAME.wasm"
