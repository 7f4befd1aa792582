#!/bin/sh
# Builds NAME.wasm of NAME.js. Needs Node.js 20, and once the network: npm install
# brings the JavaScript engine that goes into the module (QuickJS, 1.6 MB of it).
set -eu
cd "$(dirname "$0")"
NAME=@NAME@
missing() { echo "$0: $1" >&2; exit 1; }

command -v node >/dev/null || missing "node is missing; https://nodejs.org, or on Debian: apt-get install nodejs npm"
[ -d node_modules/componentize-qjs ] || missing "the JavaScript engine is missing; once, with the network: (cd $PWD && npm install)"
node build.mjs "$NAME"
