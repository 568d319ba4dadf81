#!/bin/sh
# Measures, and writes the results to bench/results/.
#
#   bench/run.sh              what shows the targets, in less than 5 minutes
#   bench/run.sh --full       all combinations
#   bench/run.sh --readme     either, and shows the results in README.md
#
# Other arguments are for a quick look at the packet path, of which nothing is written: see `dpvs-bench synthetic --help`.
set -eu
cd "$(dirname "$0")/.."
full='' readme=''
while [ $# -gt 0 ]; do
    case $1 in
        --full) full=--full ;;
        --readme) readme='--readme README.md' ;;
        *) break ;;
    esac
    shift
done
cargo build --release --quiet --package dpvs-bench --package dpvs
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
bench=$target/release/dpvs-bench
core=$(($(nproc) - 1))
if [ $# -gt 0 ]; then
    exec nice "$bench" synthetic --core "$core" $full "$@"
fi

revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
"$bench" facts --date "$(date +%F)" --revision "$revision" --out "$parts/facts.json"
# What one part cannot measure does not spoil the others; the report says why it is missing.
status=0
nice "$bench" synthetic --core "$core" $full --out "$parts/synthetic.json" || status=1
"$bench" wire --core "$core" $full --out "$parts/wire.json" || status=1
"$bench" report --parts "$parts" --results bench/results $readme
exit "$status"
