#!/usr/bin/env bash
# Builds the Debian package of dpvsd, dpvs-ctl and ipvsadm: target/debian/dpvs_VERSION_ARCHITECTURE.deb.
#
#   deploy/package.sh               build it
#   deploy/package.sh --try         build it, and try it: install it into a fresh Debian below a systemd of its own, start it, look,
#                                   reload, hang, stop, remove (as root; some minutes, mostly for the fresh Debian)
#   deploy/package.sh --try --no-build
#                                   the same with the package that is there
#
# Needs what deploy/setup.sh installs, cargo-deb (cargo install cargo-deb) and, to try it, debootstrap.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly pages=target/pages

fail() {
    echo "package: $*" >&2
    exit 1
}

build() {
    command -v cargo-deb >/dev/null || fail "cargo-deb is missing: cargo install cargo-deb"
    cargo build --release --package dpvs --bins --example pages
    rm -rf "$pages"
    target/release/examples/pages "$pages"
    cp deploy/man/*.8 "$pages/man"
    check_pages
    # The work-alike under a name that is nobody else's.
    ln -s ../lib/dpvs/ipvsadm "$pages/dpvs-ipvsadm"
    # Without it, cargo-deb would build once more.
    cargo deb --no-build --quiet
}

check_pages() {
    local page
    for page in "$pages"/man/*.8; do
        if command -v man >/dev/null && [ -n "$(MANROFFSEQ='' LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -l "$page" 2>&1 >/dev/null)" ]; then
            fail "$page is no proper manual page: man --warnings -l $page"
        fi
    done
    for page in "$pages"/bash/*; do bash -n "$page"; done
}

package() {
    local found
    found=$(find target/debian -maxdepth 1 -name 'dpvs_*.deb' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
    [ -n "$found" ] || fail "there is no package in target/debian: deploy/package.sh"
    echo "$found"
}

try=no build=yes
for argument; do
    case $argument in
        --try) try=yes ;;
        --no-build) build=no ;;
        *)
            sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
done
if [ "$build" = yes ]; then build; fi
deb=$(package)
echo "$deb"
if [ "$try" = yes ]; then exec deploy/package-try.sh "$deb"; fi
