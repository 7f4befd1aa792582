#!/bin/sh
# Runs the tests beside wasmtime, or says why they cannot be run here.
cd "$(dirname "$0")" || exit 1
skip() { echo "wasm-oracle: skipped: $1"; exit 0; }

CC=$(go env CC)
command -v "${CC%% *}" >/dev/null || skip "there is no C compiler ($CC)"
case $(go env GOOS)/$(go env GOARCH) in
linux/amd64 | linux/arm64 | darwin/amd64 | darwin/arm64) ;;
*) skip "wasmtime's library is not there for $(go env GOOS)/$(go env GOARCH)" ;;
esac
LIB=$(go mod download -json github.com/bytecodealliance/wasmtime-go/v44 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
test -n "$LIB" || skip "the module github.com/bytecodealliance/wasmtime-go/v44 cannot be fetched"

CGO_ENABLED=1 CGO_CFLAGS="-I$LIB/build/include" go test -count=1 "$@" .
