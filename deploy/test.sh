#!/usr/bin/env bash
# Everything that must hold before a change is accepted. Run as root on Debian 12 or newer.
#
#   deploy/test.sh                  format, lints, instruction counts, and all tests
#   deploy/test.sh unit             tests that need neither root nor network namespaces
#   deploy/test.sh e2e [FILTER]     end-to-end tests in network namespaces; FILTER is part of their names
#   deploy/test.sh parity           the differential suite alone: every case on Linux IPVS and on dpvsd (tests/ipvs/README.md);
#                                   with --readme, README.md says afterwards what it found
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
packages=(--workspace)
readonly end_to_end='package(dpvs-e2e) & kind(test)'
case $what in
    all) filter='all()' ;;
    unit) filter="not ($end_to_end)" ;;
    e2e) packages=(-p dpvs-e2e) filter="$end_to_end${2:+ & test(/$2/)}" ;;
    parity) packages=(-p dpvs-e2e) filter='binary(ipvs)' readme=${2:-} ;;
    *)
        sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac

step() {
    printf '\n== %s\n' "$*"
}

# A lab of a test that still runs, beside this one; its name begins with the test's process id.
in_use() {
    [[ $1 =~ ^(dpvslab-)?t([0-9]+)-[0-9]+ ]] && kill -0 "${BASH_REMATCH[2]}" 2>/dev/null
}

# What a test could leave behind, one item a line.
remains() {
    local namespace path exe
    for namespace in $(ip netns list | sed 's/ .*//'); do
        in_use "$namespace" || echo "network namespace $namespace"
    done
    ip -o link show type tun | sed 's/^[0-9]*: \([^:@]*\).*/interface \1/'
    for path in /dev/hugepages/* /run/dpvs-lab/* /run/dpvs/*; do
        [ ! -e "$path" ] || in_use "${path##*/}" || echo "file $path"
    done
    for exe in /proc/[0-9]*/exe; do
        path=$(readlink "$exe" 2>/dev/null) || continue
        case $path in
            */dpvsd | */lab-decap | */lab-probe | */linux.uml | */dpdk-testpmd | */nginx | */unbound | */iperf3 | */vsftpd | */in.tftpd | */smtpd | \
                */keepalived | */prometheus)
                exe=${exe#/proc/}
                in_use "$(ip netns identify "${exe%/exe}" 2>/dev/null)" || echo "process ${exe%/exe}: $path"
                ;;
        esac
    done
}

if [ "$what" = unit ]; then
    step "unit tests"
else
    step "set-up"
    deploy/setup.sh --tests
fi
if [ "$what" = all ]; then
    step "format"
    cargo fmt --all --check
fi
if [ "$what" != unit ]; then
    # Its last crates keep one core busy each; the other one has the rest to do meanwhile.
    step "release build, in the background"
    cargo build --release -p dpvs -p dpvs-e2e -p dpvs-instructions --bins --quiet &
    build=$!
    trap 'kill "$build" 2>/dev/null || true' EXIT
fi
if [ "$what" = all ]; then
    step "lints"
    cargo clippy --workspace --all-targets --quiet -- -D warnings
    step "documentation's examples"
    cargo test --workspace --doc --quiet
    step "build of the tests"
    cargo nextest run "${packages[@]}" --no-run --cargo-quiet
fi
if [ "$what" != unit ]; then
    step "end of the release build"
    wait "$build"
    trap - EXIT
    if [ "$what" = all ]; then
        step "instruction counts"
        target/release/dpvs-instructions
    fi
    # Labs of tests that were killed; their names begin with the test's process id.
    for lab in $(deploy/lab list); do
        if [[ $lab =~ ^t([0-9]+)-[0-9]+$ ]] && ! kill -0 "${BASH_REMATCH[1]}" 2>/dev/null; then deploy/lab down "$lab"; fi
    done
fi

# What the differential suite has found.
parity() {
    local reports=("$DPVS_PARITY_REPORTS"/*) found=$DPVS_PARITY_REPORTS.md
    [ "$what" != parity ] || cat "${reports[@]}"
    step "differences from Linux IPVS"
    sed -n 's/^differs  //p' "${reports[@]}"
    sed -n '/^DIFFERS/p; /though a reason/p' "${reports[@]}"
    awk '/^agrees/ { agree++ } /^(agrees|differs|DIFFERS)/ { total++ }
        END { printf "ipvs parity: %d of %d cases agree\n", agree, total }' "${reports[@]}" >"$found.last"
    {
        cat "$found.last"
        # Reasons, with their cases.
        sed -n 's/^differs  //p' "${reports[@]}" | awk -F ' [|] ' '
            !($2 in count) { order[++n] = $2; example[$2] = $1 }
            { count[$2]++ }
            END { if (n) print ""; for (i = 1; i <= n; i++) {
                reason = order[i]
                printf "* %s. %s\n", reason, count[reason] == 1 ? "`" example[reason] "`" : count[reason] " cases, such as `" example[reason] "`"
            } }'
    } >"$found"
    if [ "$what" = parity ] && ! readme_says "$found"; then
        if [ "${readme:-}" = --readme ]; then
            update_readme "$found"
        else
            echo "README.md says something else: deploy/test.sh parity --readme"
        fi
    fi
    printf '\n%s\n' "$(cat "$found.last")"
    rm -f "$found" "$found.last"
}

# Whether the part of README.md between its marks is this file.
readme_says() {
    sed -n '/<!-- parity: begin/,/<!-- parity: end/{/<!-- parity/d;p}' README.md | grep -v '^$' | cmp -s - <(grep -v '^$' "$1")
}

update_readme() {
    awk -v file="$1" '/<!-- parity: end/ { skip = 0 } !skip { print }
        /<!-- parity: begin/ { skip = 1; print ""; while ((getline line <file) > 0) print line; print "" }' README.md >README.md.new
    mv README.md.new README.md
}

before=$(mktemp)
after=$(mktemp)
log=$(mktemp)
DPVS_PARITY_REPORTS=$(mktemp -d)
export DPVS_PARITY_REPORTS
trap 'rm -rf "$before" "$after" "$log" "$DPVS_PARITY_REPORTS"' EXIT
[ "$what" = unit ] || remains | sort >"$before"
step "tests"
status=0
cargo nextest run "${packages[@]}" --profile all -E "$filter" 2>&1 | tee "$log" || status=$?
if [ "$what" != unit ]; then
    remains | sort >"$after"
    if left=$(comm -13 "$before" "$after") && [ -n "$left" ]; then
        printf 'test.sh: the tests left behind:\n%s\n' "$left" >&2
        status=1
    fi
fi
if [ -n "$(ls "$DPVS_PARITY_REPORTS")" ]; then
    parity
    # The last line of `parity` is its count; otherwise it is the test runner's summary.
    [ "$what" = parity ] || grep -a '^ *Summary \[' "$log" || true
fi
exit "$status"
