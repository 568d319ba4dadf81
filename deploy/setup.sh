#!/usr/bin/env bash
# Prepares a Debian 12 (or newer) machine to build and run dpvsd; with --tests also for the lab, the demo and the tests.
# Run as root. Running it again changes nothing.
set -euo pipefail

readonly rust=1.95
# What dpvsd asks for comfortably: 512 MiB in pages of 2 MiB.
readonly hugepages=256

build_packages=(build-essential ca-certificates clang curl iproute2 libclang-dev libdpdk-dev pkg-config)
test_packages=(apache2-utils arping dnsutils dpdk dpdk-dev ethtool iperf3 iptables iputils-ping ipvsadm jq keepalived kmod ldirectord lftp
    libnet-inet6glue-perl netcat-openbsd nginx-light openssl opensmtpd procps prometheus python3-scapy python3-venv socat tcpdump
    tftpd-hpa tshark unbound user-mode-linux valgrind vsftpd)

fail() {
    echo "setup: $*" >&2
    exit 1
}

tests=no
case ${1:-} in
    '') ;;
    --tests) tests=yes ;;
    *) fail "usage: deploy/setup.sh [--tests]" ;;
esac
[ "$(id -u)" = 0 ] || fail "run it as root: it installs packages and reserves huge pages"

# Packages: only those that are missing, so that it works without a network when nothing is.
install_packages() {
    local wanted=("${build_packages[@]}") missing=() package
    if [ "$tests" = yes ]; then wanted+=("${test_packages[@]}"); fi
    for package in "${wanted[@]}"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "this is no Debian; install what corresponds to: ${missing[*]}"
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # nginx, tftpd, unbound, ... are for the lab's namespaces: do not start them on the machine itself.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # Nothing of the machine makes room: OpenSMTPD would take the place of another mail server.
    apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null ||
        fail "not installed: ${missing[*]}. If they would replace something (opensmtpd another mail server), use a container"
}

check_rust() {
    local have
    command -v rustc >/dev/null || fail "no Rust compiler: install rustup from https://rustup.rs, then run this again"
    have=$(rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$rust" "$have" | sort -V | head -n 1)" != "$rust" ]; then
        fail "rustc is $have, $rust or newer is needed: rustup update stable"
    fi
    if [ "$tests" = yes ] && ! cargo nextest --version >/dev/null 2>&1; then
        echo "setup: installing cargo-nextest"
        cargo install cargo-nextest --locked --quiet
    fi
}

reserve_hugepages() {
    local free total
    [ -e /proc/sys/vm/nr_hugepages ] || { echo "setup: this kernel has no huge pages; dpvsd goes without"; return 0; }
    free=$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)
    [ "$free" -lt "$hugepages" ] || return 0
    total=$(cat /proc/sys/vm/nr_hugepages)
    echo $((total + hugepages - free)) >/proc/sys/vm/nr_hugepages 2>/dev/null || true
    free=$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)
    [ "$free" -ge "$hugepages" ] ||
        echo "setup: $free of $hugepages huge pages of 2 MiB are free; dpvsd goes without them, slower" >&2
}

check_tun() {
    if [ ! -c /dev/net/tun ]; then
        modprobe tun 2>/dev/null || true
        mkdir -p /dev/net
        [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200 2>/dev/null || true
    fi
    : 2>/dev/null <>/dev/net/tun || fail "/dev/net/tun cannot be opened: modprobe tun, or pass the device into this container"
}

install_packages
check_rust
reserve_hugepages
check_tun
