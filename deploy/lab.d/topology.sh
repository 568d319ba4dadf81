# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of the `lab` script that sources this
# Namespaces, switches and addresses.

readonly virtual4=(192.0.2.100 192.0.2.101 192.0.2.102 192.0.2.103)
readonly virtual6=(2001:db8:1::100 2001:db8:1::101 2001:db8:1::102 2001:db8:1::103)

lab_names() {
    {
        ip netns list | sed -n 's/^dpvslab-\(.*\)-[a-z0-9]*\( (id.*\)\{0,1\}$/\1/p'
        [ ! -d "$root" ] || find "$root" -mindepth 1 -maxdepth 1 -type d -printf '%f\n'
    } | sort -u
}

# Namespaces of this lab: the rest of the name after the prefix is a host, which has no dash in it.
namespaces() {
    ip netns list | awk -v p="$prefix-" 'index($1, p) == 1 && substr($1, length(p) + 1) !~ /-/ { print $1 }'
}

build() {
    local topology=${1:-} clients=1 servers=3
    [[ $topology == one-arm || $topology == two-arm ]] || fail "topology is '$topology': one-arm or two-arm"
    shift
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || fail "$1 needs a number"
        case $1 in
            --clients) clients=$2 ;;
            --servers) servers=$2 ;;
            *) fail "up does not know '$1'" ;;
        esac
        shift 2
    done
    local n
    [[ $clients =~ ^[1-9]$ && $servers =~ ^[1-9]$ ]] || fail "1 to 9 clients and servers"
    command -v ethtool >/dev/null || fail "ethtool is missing: deploy/setup.sh --tests"
    tear_down
    # Whoever takes another lab down may remove the directory above at this moment.
    for ((n = 0; n < 10; n++)); do mkdir -p "$dir/lb" "$dir/files" 2>/dev/null && break; done
    mkdir -p "$dir/lb" "$dir/files"
    trap 'tear_down' EXIT

    local server_lan=0
    [ "$topology" = one-arm ] || server_lan=1
    cat >"$dir/topology.part" <<END
topology=$topology
clients=$clients
servers=$servers
server_lan=$server_lan
END
    namespace lb
    namespace sw
    for ((n = 0; n <= server_lan; n++)); do
        # Without snooping every multicast frame is flooded, as neighbour discovery needs it.
        ip -n "$prefix-sw" link add "lan$n" up type bridge stp_state 0 forward_delay 0 mcast_snooping 0
        inside sw sysctl -qw "net.ipv6.conf.lan$n.disable_ipv6=1"
    done
    for ((n = 1; n <= clients; n++)); do
        host "c$n" 0 "$((10 + n))"
    done
    for ((n = 1; n <= servers; n++)); do
        host "s$n" "$server_lan" "$((20 + n))"
        if [ "$topology" = one-arm ]; then
            virtual_addresses "s$n"
        fi
    done
    mv "$dir/topology.part" "$dir/topology"
    trap - EXIT
}

# address4 LAN N, address6 LAN N: host N of a network.
address4() {
    case $1 in
        0) echo "192.0.2.$2" ;;
        1) echo "198.51.100.$2" ;;
    esac
}

address6() {
    echo "2001:db8:$(($1 + 1))::$2"
}

namespace() {
    ip netns add "$prefix-$1"
    ip -n "$prefix-$1" link set lo up
    inside "$1" sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.accept_ra=0 \
        net.ipv6.conf.default.autoconf=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.rp_filter=0
}

# host NAME LAN N: a namespace with eth0 on the LAN's switch, and the director as its gateway in two-arm labs.
host() {
    local name=$1 lan=$2 n=$3
    namespace "$name"
    ip -n "$prefix-sw" link add "$name" type veth peer name eth0 netns "$prefix-$name"
    plug "$name" "$lan"
    plain_checksums "$name" eth0
    ip -n "$prefix-$name" -batch - <<END
link set eth0 up
address add $(address4 "$lan" "$n")/24 dev eth0
address add $(address6 "$lan" "$n")/64 dev eth0
END
    if [ "$topology" = two-arm ]; then
        ip -n "$prefix-$name" route add default via "$(address4 "$lan" 1)"
        ip -n "$prefix-$name" -6 route add default via "$(address6 "$lan" 1)"
    fi
}

# plug DEVICE LAN: into the switch.
plug() {
    inside sw sysctl -qw "net.ipv6.conf.$1.disable_ipv6=1"
    plain_checksums sw "$1"
    ip -n "$prefix-sw" link set "$1" up master "lan$2"
}

# A station of the tests' own on each network: `lab-probe` has the other ends of the TAP devices.
probe() {
    local n
    for ((n = 0; n <= server_lan; n++)); do
        ip -n "$prefix-sw" tuntap add dev "probe$n" mode tap
        ip -n "$prefix-sw" link set "probe$n" txqueuelen 4096
        plug "probe$n" "$n"
    done
}

# Complete packets on the wire: a director that updates a checksum must find a finished one there, and on virtual
# links the kernel would otherwise leave it, and segmentation, to a card that does not exist.
plain_checksums() {
    inside "$1" ethtool -K "$2" tx off rx off gso off tso off gro off >/dev/null 2>&1 ||
        fail "cannot switch off offloads of $2 on $1"
}

# The virtual addresses on lo, never announced: what DR and TUN ask of a real server.
virtual_addresses() {
    local address
    inside "$1" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
    {
        for address in "${virtual4[@]}"; do echo "address add $address/32 dev lo"; done
        for address in "${virtual6[@]}"; do echo "address add $address/128 dev lo"; done
    } | ip -n "$prefix-$1" -batch -
}

tear_down() {
    local ns pids='' n
    for n in 0 1 2 3; do
        pids=$(for ns in $(namespaces); do ip netns pids "$ns" 2>/dev/null || true; done)
        [ -n "$pids" ] || break
        # shellcheck disable=SC2086
        if [ "$n" = 0 ]; then kill -TERM $pids 2>/dev/null || true; fi
        # Waits for daemons that clean up after themselves, then insists.
        # shellcheck disable=SC2086
        if [ "$n" = 0 ] && wait_for 3 all_gone $pids; then continue; fi
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        # shellcheck disable=SC2086
        wait_for 2 all_gone $pids || true
    done
    for ns in $(namespaces); do ip netns del "$ns"; done
    rm -rf "$dir"
    # A director that was killed could not remove the lock of its file_prefix.
    rm -f "/run/dpvs/$prefix.lock"
    rmdir "$root" 2>/dev/null || true
}

all_gone() {
    local pid
    for pid; do
        # A zombie waits for its parent only.
        if [ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; then return 1; fi
    done
}

run_on() {
    [ $# -ge 2 ] || usage
    local host=$1
    shift
    if [ "$host" = director ]; then
        if [ "$(cat "$dir/director" 2>/dev/null)" = ipvs ]; then exec "$here/ipvs-oracle" exec "$dir/lb/ipvs" "$@"; fi
        host=lb
    elif [ "$host" = u1 ]; then
        exec "$here/ipvs-oracle" exec "$dir/u1" "$@"
    fi
    [ -e "/run/netns/$prefix-$host" ] || fail "no host '$host' in lab '$lab'"
    exec ip netns exec "$prefix-$host" "$@"
}
