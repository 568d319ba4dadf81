# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of the `lab` script that sources this
# The director: dpvsd on DPDK ports, or the Linux kernel's IPVS in user-mode Linux. Both get the same addresses.

start_director() {
    local kind=${1:-}
    [ $# -eq 0 ] || shift
    [ ! -e "$dir/director" ] || fail "lab '$lab' has a director already: lab stop-director $lab"
    case $kind in
        dpvsd)
            parse_director_options "$@"
            start_dpvsd
            ;;
        ipvs) start_ipvs ;;
        *) fail "a director is dpvsd or ipvs, not '$kind'" ;;
    esac
    wait_for 10 inside c1 ping -c 1 -W 1 "$(address4 0 1)" || fail "the director does not answer c1; see $dir/lb"
    wait_for 10 inside c1 ping -c 1 -W 1 "$(address6 0 1)" || fail "the director does not answer c1 over IPv6; see $dir/lb"
}

# addresses_of LAN: the director's own, the virtual and the local ones, with prefix lengths.
addresses_of() {
    local n
    echo "$(address4 "$1" 1)/24"
    echo "$(address6 "$1" 1)/64"
    if [ "$1" = 0 ]; then
        printf '%s/32\n' "${virtual4[@]}"
        printf '%s/128\n' "${virtual6[@]}"
    fi
    if [ "$1" = "$server_lan" ]; then
        for n in 201 202; do
            echo "$(address4 "$1" "$n")/32"
            echo "$(address6 "$1" "$n")/128"
        done
    fi
}

start_ipvs() {
    local n taps=()
    for ((n = 0; n <= server_lan; n++)); do
        ip -n "$prefix-sw" tuntap add dev "lb$n" mode tap
        plug "lb$n" "$n"
        taps+=("lb$n")
    done
    echo ipvs >"$dir/director"
    "$here/ipvs-oracle" start "$dir/lb/ipvs" "$prefix-sw" "${taps[@]}"
    {
        echo 'set -e'
        for ((n = 0; n <= server_lan; n++)); do
            # Deprecated, a virtual address is never the source of the director's own packets: real servers have the
            # same one and drop what comes from themselves.
            addresses_of "$n" | sed "s|.*|ip address add & dev vec$n|; /:/s/\$/ nodad/; /\/128/s/\$/ preferred_lft 0/"
        done
        # Routes are the lab's business: redirects would tell one-arm hosts to go around the director.
        echo "echo 0 | tee /proc/sys/net/ipv4/conf/*/send_redirects >/dev/null"
    } | "$here/ipvs-oracle" exec "$dir/lb/ipvs" sh
}

parse_director_options() {
    workers=1 pmd=tap config=''
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
            --workers) workers=$2 ;;
            --pmd) pmd=$2 ;;
            --config) config=$2 ;;
            *) fail "director does not know '$1'" ;;
        esac
        shift 2
    done
    [[ $workers =~ ^[1-9][0-9]?$ ]] || fail "'$workers' is not a number of workers"
    [[ $pmd =~ ^(tap|af_packet|memif)$ ]] || fail "the lab has ports of kind tap, af_packet and memif, not '$pmd'"
}

port_mac() {
    echo "02:00:00:00:01:0$1"
}

print_config() {
    local n device mac cores cpus
    cpus=$(nproc)
    cores=$(for ((n = 0; n < workers; n++)); do printf '%s, ' "$((n % cpus))"; done)
    cat <<END
[daemon]
socket = "$dir/lb/dpvsd.sock"

[eal]
file_prefix = "$prefix"

[workers]
count = $workers
cores = [${cores%, }]
idle = "yield"

[limits]
connections = 65536
END
    for ((n = 0; n <= server_lan; n++)); do
        # A card keeps its address over restarts, and so do these.
        mac=$(port_mac "$n")
        case $pmd in
            tap) device="net_tap$n" vdev="iface=wire$n,mac=$mac" ;;
            af_packet) device="net_af_packet$n" vdev="iface=wire$n" ;;
            memif) device="net_memif$n" vdev="role=server,socket=$dir/lb/memif$n.sock,socket-abstract=no,mac=$mac" ;;
        esac
        cat <<END

[[ports]]
name = "lan$n"
device = "$device"
vdev = "$vdev"
interface = "dpvs$n"
addresses = [$(addresses_of "$n" | sed 's/.*/"&"/' | paste -sd, | sed 's/,/, /g')]
END
    done
}

start_dpvsd() {
    local n
    [ -x "$bin/dpvsd" ] || fail "$bin/dpvsd is missing: cargo build --release"
    if [ -z "$config" ]; then
        config=$dir/lb/dpvsd.toml
        print_config >"$config"
    fi
    inside lb sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0 \
        net.ipv4.conf.default.send_redirects=0
    if grep -q net_af_packet "$config"; then
        for ((n = 0; n <= server_lan; n++)); do
            ip -n "$prefix-sw" link add "lb$n" type veth peer name "wire$n" address "$(port_mac "$n")" \
                netns "$prefix-lb"
            # The kernel sees what arrives there too, and would answer for the addresses of the mirror interface: with
            # strict reverse path filtering it takes nothing from a device that no route leads to.
            inside lb sysctl -qw "net.ipv6.conf.wire$n.disable_ipv6=1" "net.ipv4.conf.wire$n.rp_filter=1" \
                "net.ipv4.conf.wire$n.arp_ignore=8"
            plain_checksums lb "wire$n"
            ip -n "$prefix-lb" link set "wire$n" up
            plug "lb$n" "$n"
        done
    fi
    background lb "$dir/lb/dpvsd.log" "$bin/dpvsd" --config "$config"
    echo "$last_pid" >"$dir/lb/pid"
    echo dpvsd >"$dir/director"
    if ! wait_for 20 dpvsd_decided || ! kill -0 "$last_pid" 2>/dev/null; then
        cat "$dir/lb/dpvsd.log" >&2
        stop_director TERM
        fail "dpvsd did not start"
    fi
    attach_ports
}

dpvsd_decided() {
    grep -q 'ready:' "$dir/lb/dpvsd.log" || ! kill -0 "$last_pid" 2>/dev/null
}

attach_ports() {
    local n
    for ((n = 0; n <= server_lan; n++)); do
        if [ -S "$dir/lb/memif$n.sock" ]; then patch_memif "$n"; fi
        # The kernel's end of a net_tap port goes where a cable would: into the switch.
        if ip -n "$prefix-lb" -o link show "wire$n" 2>/dev/null | grep -qv 'wire[0-9]*@'; then
            ip -n "$prefix-lb" link set "wire$n" netns "$prefix-sw"
            # net_tap gives both ends one MAC address; a bridge keeps frames for an address of its own ports to itself.
            ip -n "$prefix-sw" link set "wire$n" address "02:00:00:00:ff:0$n"
            plug "wire$n" "$n"
        fi
    done
}

# A cable from memif to the switch: testpmd forwards between the two. It has a queue for each worker: a worker without one
# at the other end could not send.
patch_memif() {
    local memory=(--no-huge --no-shconf -m 128)
    if [ "$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)" -ge 128 ]; then memory=(--in-memory -m 128); fi
    background sw "$dir/lb/patch$1.log" dpdk-testpmd --no-pci "${memory[@]}" --no-telemetry \
        --lcores '0@0,1@0' --file-prefix "$prefix-patch$1" \
        --vdev "net_memif0,role=client,socket=$dir/lb/memif$1.sock,socket-abstract=no" \
        --vdev "net_tap0,iface=wire$1" -- --forward-mode=io --auto-start --total-num-mbufs=16384 --stats-period=3600 \
        --rxq="${workers:-1}" --txq="${workers:-1}" --nb-cores=1
    wait_for 20 ip -n "$prefix-sw" link show "wire$1" || fail "testpmd did not start; see $dir/lb/patch$1.log"
    plug "wire$1" "$1"
}

# stop_director [SIGNAL]
stop_director() {
    local signal=${1:-TERM} pid n
    case $(cat "$dir/director" 2>/dev/null) in
        ipvs) "$here/ipvs-oracle" stop "$dir/lb/ipvs" ;;
        dpvsd)
            pid=$(cat "$dir/lb/pid")
            kill "-$signal" "$pid" 2>/dev/null || true
            wait_for 15 all_gone "$pid" || { kill -KILL "$pid"; fail "dpvsd did not end within 15 s of SIG$signal"; }
            # The patch cables of memif end with it.
            for pid in $(ip netns pids "$prefix-sw"); do
                if grep -q dpdk-testpmd "/proc/$pid/cmdline" 2>/dev/null; then kill -TERM "$pid"; wait_for 5 all_gone "$pid"; fi
            done
            ;;
    esac
    for ((n = 0; n <= server_lan; n++)); do
        ip -n "$prefix-sw" link del "lb$n" 2>/dev/null || true
    done
    rm -f "$dir/director" "$dir/lb/pid"
}

run_ipvsadm() {
    case $(cat "$dir/director" 2>/dev/null) in
        ipvs) exec "$here/ipvs-oracle" exec "$dir/lb/ipvs" ipvsadm "$@" ;;
        dpvsd) DPVS_SOCKET=$dir/lb/dpvsd.sock exec "$bin/ipvsadm" "$@" ;;
        *) fail "lab '$lab' has no director" ;;
    esac
}
