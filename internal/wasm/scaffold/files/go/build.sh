#!/bin/sh
# Builds NAME.wasm of the Go files here. Needs Go 1.24, and sluice. Nothing is
# downloaded.
set -eu
case ${SLUICE:=sluice} in [!/]*/*) SLUICE=$PWD/$SLUICE ;; esac
cd "$(dirname "$0")"
NAME=@NAME@
missing() { echo "$0: $1" >&2; exit 1; }

command -v "$SLUICE" >/dev/null || missing "sluice is missing; put it into PATH or say where it is: SLUICE=/path/to/sluice $0"
command -v go >/dev/null || missing "go is missing; https://go.dev/dl"

CORE=$(mktemp)
trap 'rm -f "$CORE"' EXIT
GOWORK=off GOFLAGS=-mod=mod GOOS=wasip1 GOARCH=wasm go build -trimpath -buildvcs=false -buildmode=c-shared -ldflags='-s -w' -o "$CORE" .
"$SLUICE" wasm wrap "$CORE" --out "$NAME.wasm"
