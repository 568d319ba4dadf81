#!/usr/bin/env bash
# Tries a package of dpvs: a fresh Debian in a temporary folder, with a systemd of its own in namespaces of its own, in which the
# package is installed, used and purged. Prints the session; exit status 0 only if everything was right.
#
#   deploy/package-try.sh target/debian/dpvs_VERSION_ARCHITECTURE.deb [FOLDER]
#
# FOLDER is such a Debian of an earlier try, which is used and kept (DPVS_TRY_KEEP=yes keeps a new one and names it).
# Needs root, debootstrap and a network for it.
set -euo pipefail

fail() {
    echo "try: $*" >&2
    exit 1
}

[ $# -ge 1 ] || { sed -n '2,/^set -/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || fail "namespaces need root"
deb=$(realpath "$1")
[ -e "$deb" ] || fail "$1 is missing: deploy/package.sh builds it"

# The machine that is tried on.
keep=${DPVS_TRY_KEEP:-no}
if [ -n "${2:-}" ]; then
    root=$(realpath "$2") keep=yes
else
    command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
    root=$(mktemp -d /var/tmp/dpvs-try.XXXXXX)
    # It becomes the root directory of users other than root, D-Bus's among them.
    chmod 755 "$root"
fi
hierarchy=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$hierarchy" ] || fail "no cgroup2 hierarchy is mounted, which systemd needs"
group=$hierarchy/dpvs-try-$$
systemd=''

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$systemd" ]; then
        kill -KILL "$systemd" 2>/dev/null || true
        while [ -e "/proc/$systemd" ]; do sleep 0.05; done
    fi
    # Groups go from the leaves up.
    if [ -d "$group" ]; then
        find "$group" -depth -mindepth 0 -type d -exec sh -c 'for n in 1 2 3 4 5; do rmdir "$1" 2>/dev/null && exit; sleep 0.1; done' _ {} \;
    fi
    if [ "$keep" = yes ]; then echo "try: the machine is in $root" >&2; else rm -rf --one-file-system "$root"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

prepare() {
    local release mirror=http://deb.debian.org/debian
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,procps "$release" "$root" "$mirror" >"$root.log" 2>&1 ||
        fail "debootstrap failed; see $root.log"
    rm -f "$root.log"
    cat >>"$root/etc/apt/sources.list" <<END
deb $mirror $release-updates main
deb http://deb.debian.org/debian-security $release-security main
END
    chroot "$root" apt-get -qq update
}

# What a container manager does: /proc, /sys, /dev with /dev/net/tun, and systemd as the first process.
boot() {
    cat >"$root/try-boot" <<'END'
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
mkdir "$1/dev/net" "$1/dev/pts" "$1/dev/shm"
for device in null zero full random urandom tty net/tun; do touch "$1/dev/$device"; mount --bind "/dev/$device" "$1/dev/$device"; done
mount -t devpts -o newinstance,ptmxmode=666 devpts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
ip link set lo up
rm "$1/try-boot"
container=dpvs-try exec chroot "$1" /lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=no
END
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec setsid unshare --mount --uts --ipc --net --pid --cgroup --fork --kill-child sh "$root/try-boot" "$root" </dev/null
    ) >"$root/try-boot.log" 2>&1 &
    local n
    for ((n = 0; n < 600; n++)); do
        # The second process of the group is the first of the namespace.
        systemd=$(tail -n 1 "$group/init.scope/cgroup.procs" 2>/dev/null) || true
        if [ -n "$systemd" ] && inside systemctl is-system-running 2>/dev/null | grep -Eqx 'running|degraded'; then
            rm -f "$root/try-boot.log"
            return
        fi
        sleep 0.1
    done
    cat "$root/try-boot.log" >&2
    fail "systemd does not start"
}

inside() {
    nsenter --target "$systemd" --mount --uts --ipc --net --pid --cgroup --root --wd \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 "$@"
}

# show COMMAND: runs it on the machine, and shows both.
show() {
    printf '\n# %s\n' "$1"
    inside sh -c "$1" 2>&1
}

# expect TEXT COMMAND: shows it, and wants this text in what it says.
expect() {
    local said
    said=$(show "$2") || true
    printf '%s\n' "$said"
    [[ $said == *"$1"* ]] || fail "'$1' is missing in what '$2' says"
}

# soon TEXT COMMAND: the same, within 20 seconds.
soon() {
    local n
    for ((n = 0; n < 100; n++)); do
        if [[ $(inside sh -c "$2" 2>&1) == *"$1"* ]]; then break; fi
        sleep 0.2
    done
    expect "$1" "$2"
}

[ -e "$root/etc/debian_version" ] || prepare
# What an earlier try has said; all have the boot id of this machine's kernel.
rm -rf "$root/var/log/journal"
# What it depends on, over this machine's network; then the package itself, below systemd.
cp "$deb" "$root/root/dpvs.deb"
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends --download-only /root/dpvs.deb >/dev/null
depends=$(dpkg-deb --field "$deb" Depends | tr ',' '\n' | sed 's/|.*//; s/(.*//' | xargs)
# shellcheck disable=SC2086
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $depends >/dev/null 2>&1
boot

expect 'Setting up dpvs' 'dpkg -i /root/dpvs.deb'
soon 'active (running)' 'systemctl --no-pager status dpvsd'
expect dpvs 'ps -o user,comm -C dpvsd'
expect 'Persistent' 'dpvs-ctl status'
expect 'wire0' 'ip -brief link'
expect 'TCP  192.0.2.10:80 wlc' 'dpvs-ipvsadm -A -t 192.0.2.10:80 -s wlc && dpvs-ipvsadm -a -t 192.0.2.10:80 -r 192.0.2.21:80 -g && dpvs-ipvsadm -Ln'
expect '"PRIORITY" : "6"' 'journalctl -u dpvsd SYSLOG_IDENTIFIER=dpvsd -o json-pretty | grep -E "PRIORITY|MESSAGE\"|TARGET"'
expect 'reloaded /etc/dpvs/dpvsd.toml' 'systemctl reload dpvsd && journalctl -u dpvsd -o cat | tail -n 3'
expect 'Status: "1 worker on lan"' 'systemctl --no-pager status dpvsd | grep Status:'
expect 'OK' 'systemd-analyze security dpvsd | tail -n 1'
expect 'failed' 'echo "[nonsense]" >>/etc/dpvs/dpvsd.toml; systemctl reload dpvsd; sed -i /nonsense/d /etc/dpvs/dpvsd.toml; systemctl is-active dpvsd'
show 'dpvs-ctl doctor --brief' || true
# A daemon that hangs is killed by the watchdog, and comes back.
pid=$(inside systemctl show --property MainPID --value dpvsd)
show "kill -STOP $pid"
soon 'Watchdog timeout' 'journalctl -u dpvsd -o cat | grep -i watchdog'
soon active 'systemctl is-active dpvsd | grep -x active'
[ "$(inside systemctl show --property MainPID --value dpvsd)" != "$pid" ] || fail "the same process runs"
expect '' 'systemctl stop dpvsd && systemctl --no-pager status dpvsd | grep -E "Active|Main PID"'
expect 'Removing dpvs' 'dpkg --purge dpvs'
expect 'gone' 'ls -d /etc/dpvs /run/dpvs /var/lib/dpvs /usr/lib/dpvs /usr/sbin/dpvsd 2>&1 | grep -v "No such file" || echo gone'
printf '\ntry: everything was right\n'
