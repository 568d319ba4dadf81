#!/usr/bin/env bash
# Shows dpvsd at work: NAT, FULLNAT, DR and TUN over IPv4 and IPv6, with real clients and servers in network namespaces.
#
#   deploy/demo.sh            set up, build, show, clean up; exit status 0 only if everything was right
#   deploy/demo.sh --keep     leave it running, and say how to play with it
#
# Run as root on Debian 12 or newer. Nothing outside of its own network namespaces is touched.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=no
case ${1:-} in
    '') ;;
    --keep) keep=yes ;;
    *)
        sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac

if [ -t 1 ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
else
    bold='' green='' red='' dim='' plain=''
fi
readonly bulk=$((64 << 20)) requests=12
labs=(demo-one-arm demo-two-arm)
failures=0

title() {
    printf '\n%s%s%s\n' "$bold" "$*" "$plain"
}

# result STATUS TEXT...: one line, counted if it is bad.
result() {
    local status=$1
    shift
    if [ "$status" = 0 ]; then
        printf '  %sok%s    %s\n' "$green" "$plain" "$*"
    else
        printf '  %sWRONG%s %s\n' "$red" "$plain" "$*"
        failures=$((failures + 1))
    fi
}

finish() {
    local status=$? lab
    trap - EXIT INT TERM
    if [ "$keep" = yes ] && [ "$status" = 0 ]; then exit 0; fi
    for lab in "${labs[@]}"; do deploy/lab down "$lab" || status=1; done
    exit "$status"
}

# mode_lab MODE, mode_number MODE, mode_flag MODE: where a mode is shown, its virtual address, ipvsadm's option.
mode_lab() {
    if [ "$1" = NAT ]; then echo demo-two-arm; else echo demo-one-arm; fi
}

mode_number() {
    case $1 in NAT) echo 100 ;; FULLNAT) echo 101 ;; DR) echo 102 ;; TUN) echo 103 ;; esac
}

mode_flag() {
    case $1 in NAT) echo -m ;; FULLNAT) echo -b ;; DR) echo -g ;; TUN) echo -i ;; esac
}

# address MODE FAMILY HOST: of a host on the network that the mode's servers (or, below 100 to 103, the VIP) are on.
address() {
    local mode=$1 family=$2 n=$3 network=1
    if [ "$mode" = NAT ] && { [ "$n" -lt 100 ] || [ "$n" -gt 200 ]; }; then network=2; fi
    case $family$network in
        IPv41) echo "192.0.2.$n" ;;
        IPv42) echo "198.51.100.$n" ;;
        *) echo "[2001:db8:$network::$n]" ;;
    esac
}

vip() {
    address "$1" "$2" "$(mode_number "$1")"
}

# Rules in the language of ipvsadm: web, name service and iperf3 on the same virtual address.
rules() {
    local mode=$1 family=$2 service protocol port scheduler n
    for service in "-t 80 rr" "-u 53 rr" "-t 5201 wlc" "-u 5201 wlc"; do
        read -r protocol port scheduler <<<"$service"
        if [ "$port" = 5201 ] && { [ "$mode" = DR ] || [ "$mode" = TUN ]; }; then continue; fi
        echo "-A $protocol $(vip "$mode" "$family"):$port -s $scheduler"
        if [ "$mode" = FULLNAT ]; then
            for n in 201 202; do
                echo "-P $protocol $(vip "$mode" "$family"):$port -z $(address "$mode" "$family" "$n" | tr -d '[]')"
            done
        fi
        for n in 21 22 23; do
            # An iperf3 run needs its two connections at one server.
            if [ "$port" = 5201 ] && [ "$n" != 21 ]; then continue; fi
            echo "-a $protocol $(vip "$mode" "$family"):$port -r $(address "$mode" "$family" "$n"):$port $(mode_flag "$mode") -w 1"
        done
    done
}

client() {
    local lab=$1
    shift
    deploy/lab exec "$lab" c1 "$@"
}

show_web() {
    local mode=$1 family=$2 lab url n answers status=0
    lab=$(mode_lab "$mode")
    url="http://$(vip "$mode" "$family")"
    answers=$(for ((n = 0; n < requests; n++)); do client "$lab" curl -sSfg --max-time 3 "$url/" || echo "no answer"; done |
        sort | uniq -c | awk '{ count = $1; $1 = ""; printf "%s%s %d", separator, substr($0, 2), count; separator = ", " }')
    # Every worker takes its own turns, so a server's share may differ from a third by one per worker.
    [[ $answers =~ ^s1\ [345],\ s2\ [345],\ s3\ [345]$ ]] || status=1
    result "$status" "$requests requests to $url: $answers"
}

show_bulk() {
    local mode=$1 family=$2 hash=$3 lab url got speed status=0
    lab=$(mode_lab "$mode")
    url="http://$(vip "$mode" "$family")/files/bulk"
    speed=$(mktemp)
    got=$(client "$lab" curl -sSfg --max-time 60 -w '%{stderr}%{speed_download}' "$url" 2>"$speed" | sha256sum | cut -d' ' -f1)
    [ "$got" = "$hash" ] || status=1
    result "$status" "64 MiB at $(awk '{ printf "%.2f Gbit/s", $1 * 8 / 1e9 }' "$speed"), SHA-256 $(
        [ "$status" = 0 ] && echo "as on the server (${hash:0:12}...)" || echo "is not that of the server")"
    rm -f "$speed"
}

show_udp() {
    local mode=$1 family=$2 lab address report status=0 n answers line
    lab=$(mode_lab "$mode")
    address=$(vip "$mode" "$family" | tr -d '[]')
    answers=$(for ((n = 0; n < requests; n++)); do
        client "$lab" dig +short +tries=1 +time=2 "@$address" whoami TXT | tr -d '"' || true
    done | sort | uniq -c | awk '{ printf "%s%s %d", separator, $2, $1; separator = ", " }')
    [[ $answers =~ ^s1\ [345],\ s2\ [345],\ s3\ [345]$ ]] || status=1
    result "$status" "$requests DNS queries: $answers"
    # On a DR or TUN server iperf3 answers UDP from the server's own address, which its client does not know.
    if [ "$mode" = DR ] || [ "$mode" = TUN ]; then return; fi
    status=0
    report=$(client "$lab" iperf3 --json --connect-timeout 5000 -c "$address" -u -b 100M -l 1200 -t 2) || status=1
    line=$(jq -r '.end.sum | "\(.bits_per_second / 1e6 | round) Mbit/s, \(.lost_percent * 100 | round / 100) % lost"' \
        <<<"$report" 2>/dev/null) || status=1
    [ "$status" != 0 ] || [ "$(jq '.end.sum.lost_percent < 5' <<<"$report")" = true ] || status=1
    result "$status" "UDP stream: ${line:-failed}"
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title "Set-up and build"
deploy/setup.sh --tests
cargo build --release --workspace --bins --quiet

title "Two labs, each with one client, three servers and dpvsd on DPDK ports"
workers=$(nproc)
[ "$workers" -le 2 ] || workers=2
declare -A hash
for lab in "${labs[@]}"; do
    deploy/lab up "$lab" "${lab#demo-}"
    deploy/lab serve "$lab"
    hash[$lab]=$(deploy/lab file "$lab" bulk "$bulk")
    deploy/lab director "$lab" dpvsd --workers "$workers"
    result 0 "$lab: dpvsd with $workers workers"
done
deploy/lab serve demo-one-arm tunnel
for mode in NAT FULLNAT DR TUN; do
    for family in IPv4 IPv6; do rules "$mode" "$family"; done | deploy/lab ipvsadm "$(mode_lab "$mode")" -R
done

for mode in NAT FULLNAT DR TUN; do
    for family in IPv4 IPv6; do
        title "$mode, $family"
        show_web "$mode" "$family"
        show_bulk "$mode" "$family" "${hash[$(mode_lab "$mode")]}"
        show_udp "$mode" "$family"
    done
done

for lab in "${labs[@]}"; do
    title "$lab: ipvsadm -Ln --stats"
    deploy/lab ipvsadm "$lab" -Ln --stats
    title "$lab: dpvs-ctl drops"
    deploy/lab ctl "$lab" drops
done

if [ "$failures" != 0 ]; then
    title "${red}$failures things were wrong${plain}"
    exit 1
fi
title "${green}Everything was right${plain}"
if [ "$keep" = yes ]; then
    cat <<END

Both labs keep running. For example:
  deploy/lab exec demo-two-arm c1 curl -s http://192.0.2.100/       ${dim}# NAT; again and again: s1, s2, s3${plain}
  deploy/lab exec demo-one-arm c1 curl -sg 'http://[2001:db8:1::103]/'   ${dim}# TUN over IPv6${plain}
  deploy/lab ipvsadm demo-one-arm -Ln --rate
  deploy/lab ctl demo-two-arm connections
  deploy/lab exec demo-two-arm lb ip addr show dpvs0                ${dim}# the director's kernel side${plain}
Stop them with: for lab in ${labs[*]}; do deploy/lab down \$lab; done
END
fi
