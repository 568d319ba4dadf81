#!/bin/sh
# Measures and writes the results to bench/results/. Quick by default; --full measures all combinations.
# Other arguments are for a quick look at the packet path, of which nothing is written: see `dpvs-bench synthetic --help`.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --quiet --package dpvs-bench
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
bench=$target/release/dpvs-bench
core=$(($(nproc) - 1))
revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

"$bench" facts --date "$(date +%F)" --revision "$revision" --out "$parts/facts.json"
nice "$bench" synthetic --core "$core" --out "$parts/synthetic.json" "$@"
case "${*:---full}" in
    --full) "$bench" report --parts "$parts" --results bench/results ;;
    *--spin*) ;;
    *) "$bench" report --parts "$parts" ;;
esac
