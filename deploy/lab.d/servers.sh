# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of the `lab` script that sources this
# What runs on the real servers.

serve() {
    local what n
    [ $# -gt 0 ] || set -- http dns iperf
    for what; do
        case $what in
            http | dns | smtp | iperf | ftp | tftp | tunnel) ;;
            *) fail "'$what' cannot be served: http, dns, smtp, iperf, ftp, tftp or tunnel" ;;
        esac
        for ((n = 1; n <= servers; n++)); do
            mkdir -p "$dir/s$n"
            "serve_$what" "s$n"
        done
    done
    for what; do
        for ((n = 1; n <= servers; n++)); do
            wait_for 10 "ready_$what" "s$n" || fail "$what on s$n did not start; see $dir/s$n"
        done
    done
}

listens() {
    [ -n "$(inside "$1" ss -Hln "$2" "sport = :$3")" ]
}

# nginx_config NAME DIR: / tells the server's name, or on port 81, where connections begin with a PROXY header, what that
# says; /files/ has the generated files, and /upload/ takes more.
nginx_config() {
    cat <<END
user root;
worker_processes 1;
pid $2/nginx.pid;
error_log $2/error.log;
events { worker_connections 4096; }
http {
    log_format lab '\$remote_addr \$remote_port \$server_addr \$status \$request_uri';
    access_log $2/access.log lab;
    client_body_temp_path $2/body;
    proxy_temp_path $2/proxy;
    fastcgi_temp_path $2/fastcgi;
    uwsgi_temp_path $2/uwsgi;
    scgi_temp_path $2/scgi;
    client_max_body_size 1g;
    add_header X-Server $1 always;
    server {
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        location = / { default_type text/plain; return 200 "$1\n"; }
        location /files/ { alias $dir/files/; }
        location /upload/ { alias $2/upload/; dav_methods PUT; create_full_put_path on; }
    }
    server {
        listen 81 backlog=4096 proxy_protocol;
        listen [::]:81 backlog=4096 proxy_protocol;
        location = / {
            default_type text/plain;
            return 200 "\$proxy_protocol_addr \$proxy_protocol_port \$proxy_protocol_server_addr \$proxy_protocol_server_port\n";
        }
        location /files/ { alias $dir/files/; }
        location /upload/ { alias $2/upload/; dav_methods PUT; create_full_put_path on; }
    }
}
END
}

serve_http() {
    nginx_config "$1" "$dir/$1" >"$dir/$1/nginx.conf"
    background "$1" "$dir/$1/nginx.log" nginx -e "$dir/$1/error.log" -c "$dir/$1/nginx.conf" -g 'daemon off;'
}

ready_http() {
    listens "$1" -t 80
}

serve_dns() {
    # Answers from the address that was asked, which on a DR or TUN server is the virtual one.
    cat >"$dir/$1/unbound.conf" <<END
server:
    directory: "$dir/$1"
    chroot: ""
    username: ""
    pidfile: "$dir/$1/unbound.pid"
    logfile: ""
    use-syslog: no
    do-daemonize: no
    module-config: "iterator"
    interface: 0.0.0.0
    interface: ::0
    interface-automatic: yes
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    local-zone: "whoami." static
    local-data: 'whoami. 0 IN TXT "$1"'
    local-zone: "large." static
$(for n in 1 2 3 4 5 6; do printf "    local-data: 'large. 0 IN TXT \"%s\"'\n" "$(printf "%0200d" "$n")"; done)
    local-zone: "huge." static
$(for n in {1..15}; do printf "    local-data: 'huge. 0 IN TXT \"%s\"'\n" "$(printf "%0200d" "$n")"; done)
    max-udp-size: 4096
remote-control:
    control-enable: no
END
    background "$1" "$dir/$1/unbound.log" unbound -d -c "$dir/$1/unbound.conf"
}

ready_dns() {
    listens "$1" -u 53
}

# OpenSMTPD: takes mail for nobody@..., which it puts into smtpd/run/mail/new; on port 2525 it greets with an error, on 2526 it takes no HELO.
serve_smtp() {
    local own=$dir/$1/smtpd
    mkdir -p "$own/run" "$own/spool"
    mkdir -p -m 1777 "$own/run/mail"
    cat >"$own/run/smtpd.conf" <<END
filter closed phase connect match src { 0.0.0.0/0, ::/0 } disconnect "554 no mail here"
filter silent phase helo match src { 0.0.0.0/0, ::/0 } reject "550 not you"
listen on 0.0.0.0 port 25 hostname $1
listen on 0.0.0.0 port 2525 hostname $1 filter closed
listen on 0.0.0.0 port 2526 hostname $1 filter silent
listen on ::0 port 25 hostname $1
action keep maildir "/run/mail"
match from any for any action keep
END
    # Its socket, its spool and the list of name servers, which it asks for every client's name, have fixed places. Without
    # such a list it asks this host, where nobody listens.
    cat >"$own/start" <<END
mount --bind "$own/spool" /var/spool
mount --bind "$own/run" /run
names=\$(readlink -m /etc/resolv.conf)
mkdir -p "\${names%/*}"
: >/run/none
[ -e "\$names" ] || : >"\$names"
mount --bind /run/none "\$names"
exec smtpd -d -f /run/smtpd.conf
END
    background "$1" "$dir/$1/smtpd.log" sh -eu "$own/start"
    echo "$last_pid" >"$dir/$1/smtpd.pid"
}

ready_smtp() {
    listens "$1" -t 25
}

serve_iperf() {
    background "$1" "$dir/$1/iperf3.log" iperf3 --server --forceflush
}

ready_iperf() {
    listens "$1" -t 5201
}

# All servers have the same files; uploads go to /upload.
serve_ftp() {
    mkdir -p -m 1777 "$dir/files/upload" /run/vsftpd/empty
    cat >"$dir/$1/vsftpd.conf" <<END
listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root=$dir/files
write_enable=YES
anon_upload_enable=YES
anon_umask=022
connect_from_port_20=YES
ftpd_banner=$1
secure_chroot_dir=/run/vsftpd/empty
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
END
    background "$1" "$dir/$1/vsftpd.log" vsftpd "$dir/$1/vsftpd.conf"
}

ready_ftp() {
    listens "$1" -t 21
}

# All servers have the same files; uploads go to /upload.
serve_tftp() {
    mkdir -p -m 1777 "$dir/files/upload"
    background "$1" "$dir/$1/tftpd.log" in.tftpd --foreground --address :69 --user root --create --secure "$dir/files"
}

ready_tftp() {
    listens "$1" -u 69
}

# The kernel of this machine may lack IP-in-IP, so a small process takes the inner packets out.
serve_tunnel() {
    [ -x "$bin/lab-decap" ] || fail "$bin/lab-decap is missing: cargo build --release -p dpvs-e2e"
    ip -n "$prefix-$1" tuntap add dev decap0 mode tun
    ip -n "$prefix-$1" link set decap0 up mtu 1500
    background "$1" "$dir/$1/decap.log" "$bin/lab-decap" decap0
}

ready_tunnel() {
    grep -q ready "$dir/$1/decap.log"
}

make_file() {
    [ $# = 2 ] || usage
    [[ $1 =~ ^[A-Za-z0-9._-]+$ && $2 =~ ^[0-9]+$ ]] || fail "file takes a plain name and a number of bytes"
    head -c "$2" /dev/urandom >"$dir/files/$1"
    sha256sum "$dir/files/$1" | cut -d' ' -f1
}

# A real server whose own kernel ends the tunnels: tunl0 and ip6tnl0 of user-mode Linux.
oracle_server() {
    local address state=$dir/u1
    [ "$topology" = one-arm ] || fail "tunnels end in one-arm labs only"
    ip -n "$prefix-sw" tuntap add dev u1 mode tap
    plug u1 0
    "$here/ipvs-oracle" start "$state" "$prefix-sw" u1
    nginx_config u1 "$state" | sed "s|$dir/files/|$state/files/|" >"$state/nginx.conf"
    mkdir -p "$state/files"
    {
        echo 'set -e'
        echo "echo 0 | tee /proc/sys/net/ipv4/conf/*/rp_filter >/dev/null"
        echo 'echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore'
        echo 'echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce'
        echo 'ip link set tunl0 up; ip link set ip6tnl0 up'
        echo "ip address add $(address4 0 31)/24 dev vec0; ip address add $(address6 0 31)/64 dev vec0 nodad"
        for address in "${virtual4[@]}"; do echo "ip address add $address/32 dev lo"; done
        for address in "${virtual6[@]}"; do echo "ip address add $address/128 dev lo nodad"; done
        echo "nginx -e $state/error.log -c $state/nginx.conf"
    } | "$here/ipvs-oracle" exec "$state" sh
}
