#!/bin/sh
# Runs the tests before a real engine: llama.cpp's server, from the PyPI package
# xllamacpp, with a tiny model that is made here. Needs Go and python3 with venv.
# What it installs (about 210 MB) stays in $SLUICE_ENGINE_DIR, by default
# .tools/engine. Arguments go to go test: test/engine/run.sh -v -run Cancel
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=${SLUICE_ENGINE_DIR:-$root/.tools/engine}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# A copy of the list is left behind when all of it is installed.
if ! cmp -s "$here/requirements.txt" "$dir/installed.txt"; then
	rm -rf "$dir/venv" "$dir/installed.txt"
	python3 -m venv "$dir/venv"
	"$dir/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
	cp "$here/requirements.txt" "$dir/installed.txt"
fi
if ! [ "$dir/tiny.gguf" -nt "$here/tiny_gguf.py" ]; then
	"$dir/venv/bin/python" "$here/tiny_gguf.py" "$dir/tiny.gguf"
fi
cd "$root"
SLUICE_ENGINE=$dir exec go test ./test/engine -count=1 "$@"
