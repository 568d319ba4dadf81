#!/bin/sh
# Measures the packet path on one core and writes the results to bench/results/. Quick by default; --full measures all
# combinations. Other arguments go to the program: see --help.
set -eu
cd "$(dirname "$0")/.."
core=$(($(nproc) - 1))
revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
cargo build --release --quiet --package dpvs-bench
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
exec nice "$target/release/dpvs-bench" --core "$core" --date "$(date +%F)" --revision "$revision" \
    --results bench/results "$@"
